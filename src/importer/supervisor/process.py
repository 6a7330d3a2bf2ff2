"""One loader process: starts it, reads its messages, signals it, waits for its end. Makes no decisions and stores nothing.

The event loop reads both pipes, asks for the exit code, and sends signals: so a process is never signalled after it was
reaped, when a later process may have its id. Of progress only the latest message is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from importer import failpoint
from importer.supervisor.limits import SupervisorLimits
from importer.supervisor.log_tail import LogTail
from importer.supervisor.outcome import LoaderExit
from loader.contract import ExitCode, Failed, Job, Message, ProgressMessage, Published

# Messages have at most a few kilobytes. A line that is longer than this is no message, and is handled in pieces.
MAX_LINE_BYTES = 1 << 20
# When a process ends its pipes close, unless a process that it started still holds them.
_DRAIN_SECONDS = 2.0
# Between two questions for the exit code while a pipe is open. A process that has ended waits for this long at most.
_POLL_SECONDS = 0.5
# The same once both pipes have closed: a process closes them just before it ends.
_FINAL_POLL_SECONDS = 0.01

_MESSAGES = msgspec.json.Decoder(Message)


class LoaderProcess:
    """A process from its start to its end. To be created and used in the event loop."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        job: Job | None,
        database_url: str,
        limits: SupervisorLimits,
    ) -> None:
        """Start it. With a job: write the job to stdin, hold stdin open, and kill the process if it hangs."""
        self.progress: ProgressMessage | None = None  # the latest
        # Set by each message and at the end; the reader clears it before it reads the attributes.
        self.changed = asyncio.Event()
        self.process_id: int | None = None  # None: it could not be started
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._last: Published | Failed | None = None
        self._log = LogTail(job, database_url)
        # Since the last check, one second ago at most.
        self._has_reported = self._has_progressed = False
        self._silent_seconds = self._stalled_seconds = 0
        self._was_silent = self._was_stalled = False
        self._end: asyncio.Future[LoaderExit]
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program; what clients send goes to its stdin
                arguments,
                stdin=subprocess.DEVNULL if job is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C in the service's terminal is for the service only
            )
        except OSError as error:
            self._end = self._loop.create_future()
            self._end.set_result(LoaderExit(None, None, str(error)))
            self.changed.set()
            return
        failpoint.hit()
        self.process_id = process.pid
        self._process = process
        self._end = self._loop.create_task(self._run(process), name="loader process")
        if job is not None:
            self._write(job)
            failpoint.hit()
            self._loop.call_later(1, self._check_for_hang)

    @property
    def has_ended(self) -> bool:
        """Whether `end` returns at once."""
        return self._end.done()

    @property
    def publish(self) -> LoaderExit | None:
        """The exit of a process that has reported its publish; None: it has not. It may still tidy up, for minutes."""
        if isinstance(self._last, Published):
            return LoaderExit(ExitCode.PUBLISHED, self._last, self._log.text())
        return None

    async def end(self) -> LoaderExit:
        """Wait for the end. Any number of callers may wait."""
        return await asyncio.shield(self._end)

    def roll_back(self, grace_seconds: float) -> None:
        """Have it undo its work; kill it if it has not ended after the grace."""
        self._signal(signal.SIGTERM)
        self._loop.call_later(grace_seconds, self.kill)

    def suspend(self, grace_seconds: float) -> None:
        """Have it keep what is committed and end; kill it if it has not ended after the grace."""
        self._signal(signal.SIGHUP)
        self._close_stdin()  # means the same; a service that runs under nohup starts its loaders with SIGHUP ignored
        self._loop.call_later(grace_seconds, self.kill)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            # Asks for the exit code first, and sends nothing if there is one.
            self._process.send_signal(number)

    def _write(self, job: Job) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended already
                # Does not block: the pipe has room for the job, also if the loader reads nothing.
                self._process.stdin.write(msgspec.json.encode(job) + b"\n")
                self._process.stdin.flush()

    def _close_stdin(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _check_for_hang(self) -> None:
        """Count seconds one by one: those during which the service itself was stopped do not count."""
        if self.has_ended:
            return
        self._silent_seconds = 0 if self._has_reported else self._silent_seconds + 1
        self._stalled_seconds = 0 if self._has_progressed else self._stalled_seconds + 1
        self._has_reported = self._has_progressed = False
        if self._silent_seconds == self._limits.silence_seconds:
            self._was_silent = True
            self.kill()
        elif self._stalled_seconds == self._limits.stall_seconds:
            self._was_stalled = True
            self.kill()
        self._loop.call_later(1, self._check_for_hang)

    async def _run(self, process: subprocess.Popen[bytes]) -> LoaderExit:
        """Read both pipes until the process has ended, and reap it."""
        pipes = [
            await self._loop.connect_read_pipe(partial(_Lines, take), pipe)
            for pipe, take in ((process.stdout, self._take), (process.stderr, self._log.add))
        ]
        while (exit_code := process.poll()) is None:
            if open_pipes := [lines.ended for _, lines in pipes if not lines.ended.done()]:
                await asyncio.wait(open_pipes, timeout=_POLL_SECONDS)
            else:
                await asyncio.sleep(_FINAL_POLL_SECONDS)
        await asyncio.wait([lines.ended for _, lines in pipes], timeout=_DRAIN_SECONDS)
        for transport, _ in pipes:
            transport.close()
        await asyncio.wait([lines.ended for _, lines in pipes])
        self._close_stdin()
        self.changed.set()
        return LoaderExit(exit_code, self._last, self._log.text(), self._was_silent, self._was_stalled)

    def _take(self, line: bytes) -> None:
        """Handle a line of stdout. Messages and fields of unknown types are ignored."""
        self._has_reported = True
        try:
            message = _MESSAGES.decode(line)
        except msgspec.ValidationError:
            return
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._log.add(line)
            return
        if isinstance(message, Published | Failed):
            self._last = message
            self.changed.set()
        elif isinstance(message, ProgressMessage):
            before = self.progress
            # An index of a large part takes hours; the loader checks by itself that the database works on it.
            is_indexing = message.phase == "indexing"
            if (
                is_indexing
                or before is None
                or message.phase != before.phase
                or counters(message) != counters(before)
            ):
                self._has_progressed = True
            self.progress = message
            self.changed.set()


class _Lines(asyncio.Protocol):
    """Splits what a pipe delivers into lines; one that is too long, into pieces."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take = take
        self._rest = bytearray()

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if b"\n" in data:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._take(bytes(line) + b"\n")
        if len(self._rest) >= MAX_LINE_BYTES:
            self._take_rest()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it by name or position
        self._take_rest()
        self.ended.set_result(None)

    def _take_rest(self) -> None:
        if self._rest:
            self._take(bytes(self._rest))
            self._rest.clear()


def counters(message: ProgressMessage) -> tuple[object, ...]:
    """Return the numbers that change only when a loader makes progress. Rates change without any."""
    progress = message.progress
    return progress.percent, progress.bytes_done, progress.rows_loaded, progress.rows_rejected
