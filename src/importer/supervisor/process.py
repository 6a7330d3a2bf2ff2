"""ONE loader process: started, listened to, told to stop, waited for. It decides nothing and writes nothing down.

Three threads serve it: one reads stdout and one stderr, so that a loader never blocks on what it says, one waits for
its end. They hand over to the event loop, and only that there is something new: of progress the latest counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import UUID

import msgspec

from importer import failpoint
from importer.supervisor.outcome import LoaderExit
from loader.contract import ExitCode, Failed, Job, Message, ProgressMessage, Published
from loader.postgres.connection import parse_url

# -P: the folder that the service runs in is no place to import from.
LOADER = (sys.executable, "-P", "-m", "loader")

# Of what a process says beside its messages, this much is kept: enough for some tracebacks.
LOG_BYTES = 64 * 1024
# Shorter values in an address's query, such as a version or a region, are no secrets, and may stand anywhere.
_MIN_SECRET = 6
# Messages are shorter than a few kilobytes; a longer line is none, and is taken in pieces.
_LINE_BYTES = 1 << 20
# A loader reports twice a second, whatever it does. One that is silent for so long hangs, or was stopped by SIGSTOP;
# a machine that swaps is silent for some seconds.
SILENCE_SECONDS = 60
# One that reports the same for so long hangs, too. Nothing that it waits for takes longer: others' locks on trips ten
# minutes (publish.py), the first blocks of a link with 20 kB/s half an hour.
STALL_SECONDS = 1800
# The end of a process closes its pipes. One that is still open then is held by a process that we know nothing of.
_DRAIN_SECONDS = 2.0

# What a loader needs to know of the service's environment: programs, folders, language, libraries, and libpq's settings.
# Neither proxies nor credentials of anything else.
_INHERITED = frozenset({"HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"})
_INHERITED_PREFIXES = ("LC_", "NUMBA_", "PG", "PYTHON", "SSL_CERT_", "XDG_")


class LoaderProcess:
    """A process from its start to its end. To be made and used in the event loop."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], *, job: Job | None, database_url: str
    ) -> None:
        """Start it. With a job: hand that over, hold stdin open, and kill it when it is silent for too long."""
        self.progress: ProgressMessage | None = None  # the latest
        self.changed = (
            asyncio.Event()
        )  # set when that is new, and at the end; whoever reads it clears this first
        self._end: asyncio.Future[LoaderExit] = asyncio.get_running_loop().create_future()
        self._last: Published | Failed | None = None
        self._log = _Tail(_secrets(job, database_url))
        self._heard = self._was_silent = False
        self._moved = self._was_stalled = False
        self._is_announced = False
        self._silent_seconds = self._stalled_seconds = 0
        # Whoever holds it and sees no returncode may signal: nobody reaps meanwhile, so that the id is the process's own.
        self._lock = threading.Lock()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own program; what strangers send goes to its stdin
                arguments,
                stdin=subprocess.DEVNULL if job is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the service's terminal is the service's to handle
            )
        except OSError as error:
            self._process = None
            self._finish(LoaderExit(None, None, str(error)))
            return
        failpoint.hit()
        threading.Thread(target=self._live, args=(self._process,), name="loader", daemon=True).start()
        if job is not None:
            self._hand_over(job)
            failpoint.hit()
            asyncio.get_running_loop().call_later(1, self._listen_for_silence)

    @property
    def process_id(self) -> int | None:
        """None: it could not be started."""
        return self._process.pid if self._process is not None else None

    @property
    def has_ended(self) -> bool:
        """Whether `end` returns at once."""
        return self._end.done()

    @property
    def publish(self) -> LoaderExit | None:
        """How it ends, known before it does: once the rows are visible it tidies up, and no exit code takes them back."""
        if isinstance(self._last, Published):
            return LoaderExit(ExitCode.PUBLISHED, self._last, self._log.text())
        return None

    async def end(self) -> LoaderExit:
        """Wait for its end, whoever else does."""
        return await asyncio.shield(self._end)

    def roll_back(self, grace_seconds: float) -> None:
        """Have it undo what it did, and kill it if it has not ended by then."""
        self._signal(signal.SIGTERM)
        asyncio.get_running_loop().call_later(grace_seconds, self.kill)

    def suspend(self, grace_seconds: float) -> None:
        """Have it keep what is committed, and kill it if it has not ended by then."""
        self._signal(signal.SIGHUP)
        self._close_stdin()  # says the same to a loader that ignores SIGHUP, as all do whose service runs under nohup
        asyncio.get_running_loop().call_later(grace_seconds, self.kill)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._process is not None and self._process.returncode is None:
                self._process.send_signal(number)

    def _hand_over(self, job: Job) -> None:
        # Not in a thread: it has room in the pipe, whether it is read or not.
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended already; how, `end` tells
                self._process.stdin.write(msgspec.json.encode(job) + b"\n")
                self._process.stdin.flush()

    def _close_stdin(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    # In the event loop

    def _announce(self) -> None:
        self._is_announced = False
        self.changed.set()

    def _finish(self, end: LoaderExit) -> None:
        self._end.set_result(end)
        self.changed.set()

    def _listen_for_silence(self) -> None:
        """Count the seconds of silence one by one: if the service itself was stopped, none of them is the loader's."""
        if self.has_ended:
            return
        self._silent_seconds = 0 if self._heard else self._silent_seconds + 1
        self._stalled_seconds = 0 if self._moved else self._stalled_seconds + 1
        self._heard = self._moved = False
        if self._silent_seconds == SILENCE_SECONDS:
            self._was_silent = True
            self.kill()
        elif self._stalled_seconds == STALL_SECONDS:
            self._was_stalled = True
            self.kill()
        asyncio.get_running_loop().call_later(1, self._listen_for_silence)

    # In threads of its own

    def _live(self, process: subprocess.Popen[bytes]) -> None:
        readers = [
            threading.Thread(target=_read, args=each, name="loader reader", daemon=True)
            for each in ((process.stdout, self._take), (process.stderr, self._log.add))
        ]
        for reader in readers:
            reader.start()
        with contextlib.suppress(ChildProcessError):  # send_signal has reaped it
            # without reaping: its process id stays its own until nobody can signal it any more
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            exit_code = process.wait()
        for reader in readers:
            reader.join(_DRAIN_SECONDS)
        self._close_stdin()
        end = LoaderExit(exit_code, self._last, self._log.text(), self._was_silent, self._was_stalled)
        self._tell(self._finish, end)

    def _take(self, line: bytes) -> None:
        """Take a line from stdout: types and fields that we do not know are for others."""
        self._heard = True
        try:
            message = _MESSAGES.decode(line)
        except msgspec.ValidationError:
            return
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._log.add(line)
            return
        if isinstance(message, Published | Failed):
            self._last = message
            self._tell(self._announce)
        elif isinstance(message, ProgressMessage):
            before = self.progress
            if before is None or message.phase != before.phase or counts(message) != counts(before):
                self._moved = True
            if (
                message.phase == "indexing"
            ):  # of one large part, for hours; the loader asks the database if it lives
                self._moved = True
            self.progress = message
            if not self._is_announced:  # however fast it talks, the event loop hears of it one at a time
                self._is_announced = True
                self._tell(self._announce)

    def _tell(self, function: Callable[..., None], *arguments: LoaderExit) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            self._end.get_loop().call_soon_threadsafe(function, *arguments)


class Loaders(msgspec.Struct, frozen=True):
    """Starts loader processes, as the service's settings want them."""

    database_url: str
    workers: int | None = None
    allowed_hosts: Sequence[str] = ()
    command: Sequence[str] = LOADER

    def run(self, job: Job) -> LoaderProcess:
        """Start a loader for a job. Its stdin stays open: should the service be killed, it suspends."""
        job = msgspec.structs.replace(
            job,
            database_url=self.database_url,
            workers=job.workers or self.workers,
            allowed_hosts=list(self.allowed_hosts),
        )
        return LoaderProcess(
            [*self.command, "run"],
            loader_environment(os.environ),
            job=job,
            database_url=self.database_url,
        )

    def drop(self, import_id: UUID, *, published: bool) -> LoaderProcess:
        """Start the removal of an import's staging; `published`: of its visible rows, too."""
        return LoaderProcess(
            [*self.command, "drop", str(import_id), *(["--published"] if published else [])],
            loader_environment(os.environ) | {"DATABASE_URL": self.database_url},
            job=None,
            database_url=self.database_url,
        )


def counts(report: ProgressMessage) -> tuple[object, ...]:
    """Return the numbers that a loader changes when it comes further. Rates change by themselves."""
    progress = report.progress
    return progress.percent, progress.bytes_done, progress.rows_loaded, progress.rows_rejected


_MESSAGES = msgspec.json.Decoder(Message)


def loader_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of the service's environment a loader gets."""
    return {
        name: value
        for name, value in environment.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }


def _read(stream: IO[bytes], take: Callable[[bytes], None]) -> None:
    with stream:
        while line := stream.readline(_LINE_BYTES):
            take(line)


class _Tail:
    """The end of a process's log, without the secrets that we know of."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = [secret.encode() for secret in sorted(secrets, key=len, reverse=True)]
        self._bytes = bytearray()
        self._lock = threading.Lock()

    def add(self, line: bytes) -> None:
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        with self._lock:
            self._bytes += line
            del self._bytes[:-LOG_BYTES]

    def text(self) -> str:
        with self._lock:
            return self._bytes.decode(errors="replace")


def _secrets(job: Job | None, database_url: str) -> set[str]:
    """Return what must not show, should a traceback quote it: the loader's own messages know better."""
    secrets = {database_url, parse_url(database_url).get("password", "")}
    if job is not None:
        secrets.add(job.source)
        with contextlib.suppress(ValueError):  # no URL: the loader says so
            source = urlsplit(job.source)
            credentials, _, _ = source.netloc.rpartition("@")
            values = (value for _, value in parse_qsl(source.query) if len(value) >= _MIN_SECRET)
            secrets |= {source.query, credentials, *credentials.split(":", 1), *values}
    return {form for secret in secrets for form in (secret, unquote(secret)) if form}
