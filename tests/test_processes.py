"""What tests start gets signals as a user's commands do, wherever the tests themselves run."""

import os
import signal
import sys
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from tests.processes import PATIENCE_S, STANDSTILL_S, run_tool, started, wait_until


@pytest.fixture
def sigint_ignored() -> Iterator[None]:
    """As in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN  # it was put back


@pytest.mark.usefixtures("sigint_ignored")
def test_an_interrupt_reaches_what_is_started_where_sigint_is_ignored() -> None:
    sleeper = f"import time; print('up', flush=True); time.sleep({2 * PATIENCE_S})"
    with started(sys.executable, "-c", sleeper) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE_S)
    assert complaint.endswith("KeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT


def test_what_fails_in_its_block_leaves_neither_process_nor_pipe() -> None:
    with pytest.raises(ZeroDivisionError), started("sleep", str(2 * PATIENCE_S)) as process:
        1 / 0  # noqa: B018
    assert process.returncode == -signal.SIGKILL
    assert process.stdout is not None
    assert process.stdout.closed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands except while one sleeps, which takes much longer than asked for."""
    now = [0.0]

    def sleep(_: float) -> None:
        now[0] += STANDSTILL_S / 2

    monkeypatch.setattr("tests.processes.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tests.processes.time.sleep", sleep)
    return now


def test_what_moves_may_take_its_time(clock: list[float]) -> None:
    seen = iter(range(100))
    assert wait_until(lambda: next(seen), lambda value: value == 99, "ready") == 99
    assert clock[0] > 40 * STANDSTILL_S


def test_a_standstill_fails_and_says_what_did_not_come(clock: list[float]) -> None:
    seen = chain([1, 2, 3], repeat(3))
    with pytest.raises(AssertionError, match="ready: nothing moves at 3"):
        wait_until(lambda: next(seen), lambda value: value == 99, "ready")
    assert clock[0] == 2 * STANDSTILL_S


def test_a_tool_that_fails_shows_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="what went wrong"):
        run_tool(sys.executable, "-c", "import sys; sys.exit('what went wrong')",
                 cwd=tmp_path, folder=tmp_path, environment=os.environ)  # fmt: skip
