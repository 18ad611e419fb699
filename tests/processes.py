"""Other processes that tests start, and how long these wait for them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
PATIENCE_S = 600  # for what takes seconds where nothing else runs: it ends what would never end
STANDSTILL_S = 300  # of what takes minutes: as long as anything moves it may take its time


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


def wait_until(
    look: Callable[[], T],
    is_so: Callable[[T], bool],
    what: str,
    standstill_s: float = STANDSTILL_S,
) -> T:
    """Look until what is seen is so, however long it takes: only a standstill fails."""
    seen, since = None, time.monotonic()
    while not is_so(now := look()):
        if now != seen:
            seen, since = now, time.monotonic()
        assert time.monotonic() - since < standstill_s, f"{what}: nothing moves at {now}"
        time.sleep(0.1)
    return now


def size(folder: Path) -> int:
    """Bytes in all files under a folder: they grow while whoever writes there moves."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # some vanish meanwhile
            total += path.stat().st_size
    return total


def memory(pid: int) -> int:
    """Bytes that a process holds. Skips the test where the system does not tell."""
    told = Path(f"/proc/{pid}/statm")
    if not told.exists():
        pytest.skip("memory is read in /proc, which Linux alone has")
    return int(told.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_tool(
    *command: str | Path,
    cwd: Path,
    folder: Path,
    environment: Mapping[str, str],
    standstill_s: float = STANDSTILL_S,
) -> None:
    """Run a command that must succeed, as long as it prints or anything under `folder` grows."""
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def look() -> tuple[bool, int]:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        return process.returncode is not None, size(folder)

    try:
        wait_until(look, lambda seen: seen[0], f"{command[-1]}, see {log}", standstill_s)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, log.read_text(errors="replace")[-25_000:]
