"""`make pictures`: draws the README's pictures from real runs: an import in a terminal, and the page at /schema.

The terminal's frame is one in the middle of the import, followed by the result. The page needs Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from examples.file_server import serve
from examples.service_process import serve_imports

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
# Wide enough for the progress bar with all its numbers.
COLUMNS, LINES = 118, 40
# The frame that is drawn is the first beyond this.
SHOWN_PERCENT = 55.0
PAGE_WIDTH, PAGE_HEIGHT = 1280, 1000
PAGE_SECONDS = 60

# Rich begins each frame of its bar by clearing the line; other sequences than colours only move the cursor or hide it.
_FRAME = "\x1b[2K"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]|\r")
_PERCENT = re.compile(r"([0-9.]+)%")
_LOADER = [sys.executable, "-m", "loader"]
# Rich's template for SVG names a font on another host, which no viewer of a picture may load.
_FONT_FACES = re.compile(r"@font-face \{\{.*?\}\}", re.DOTALL)


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=3_000_000, help="rows of the sample (default: %(default)s)"
    )
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.gettempdir(), "importer")  # in the picture: no name of a user, no random one
    folder.mkdir()
    try:
        draw_terminal(folder, options.rows, FOLDER / "terminal.svg")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if chromium is None:
            sys.exit("Chromium is not installed: the page at /schema was not drawn.")
        photograph_page(folder, chromium, FOLDER / "schema.png")
    finally:
        shutil.rmtree(folder)


def draw_terminal(folder: Path, rows: int, picture: Path) -> None:
    """Import a sample of `rows` rows in a terminal, and draw it."""
    sample = folder / "fhvhv_tripdata_2024-01.csv"
    subprocess.run([*_LOADER, "sample", "--rows", str(rows), str(sample)], check=True)
    with serve(folder) as url:
        command = ["run", f"{url}/{sample.name}"]
        output = run_in_terminal(
            [*_LOADER, *command],
            {**os.environ, "TERM": "xterm-256color", "IMPORTER_DATA_DIR": str(folder / "data")},
        )
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(f"$ loader {shlex.join(command)}", highlight=False)
    for line in shown_lines(output):
        console.print(Text.from_ansi(line), highlight=False)
    picture.write_text(
        console.export_svg(title="loader run", code_format=_FONT_FACES.sub("", CONSOLE_SVG_FORMAT))
    )


def run_in_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run a command in a pseudo-terminal; return what it writes. Raises CalledProcessError."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    chunks: list[bytes] = []
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: the process has closed its side
            while chunk := os.read(ours, 1 << 16):
                chunks.append(chunk)
    os.close(ours)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command, b"".join(chunks))
    return b"".join(chunks).decode()


def shown_lines(output: str) -> list[str]:
    """Return the lines before the first frame, one frame of the bar, and the lines after the last frame."""
    frames = [_CONTROL.sub("", frame) for frame in output.split(_FRAME)]
    *notes, _ = frames[0].split("\n")  # the first frame needs no clearing
    last, *result = frames[-1].split("\n")
    running = next((frame for frame in frames if _percent(frame) >= SHOWN_PERCENT), last)
    lines = [*notes, running.split("\n")[0], last, *result]
    return [line for line in lines if line.strip()]


def photograph_page(folder: Path, chromium: str, picture: Path) -> None:
    """Start the service, and take a picture of its page."""
    with serve_imports(folder / "service", dict(os.environ)) as service:
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",  # root has none, and only the project's own page is opened
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={folder / 'chromium'}",
                f"--window-size={PAGE_WIDTH},{PAGE_HEIGHT}",
                "--virtual-time-budget=15000",
                f"--screenshot={picture}",
                f"{service.url}/schema",
            ],
            check=True,
            timeout=PAGE_SECONDS,
            stderr=subprocess.DEVNULL,
        )


def _percent(bar: str) -> float:
    found = _PERCENT.search(bar)
    return 0.0 if found is None else float(found[1])


if __name__ == "__main__":
    main()
