"""Other processes that tests start, and how long these wait for them."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 600  # for what takes seconds where nothing else runs: it ends what would never end


@contextmanager
def started(
    *command: str | Path, cwd: Path | None = None, new_session: bool = False
) -> "Iterator[subprocess.Popen[str]]":
    """A process with its output in pipes; it is over and they are closed when the block ends.

    SIGINT reaches it. What a shell runs in the background may ignore that, and with it all that it
    starts in turn; a signal that this process handles, though, has its default in those it starts.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command, cwd=cwd, text=True, start_new_session=new_session,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()
