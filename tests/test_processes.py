"""What tests start gets signals as a user's commands do, wherever the tests themselves run."""

import signal
import sys
from collections.abc import Iterator

import pytest

from tests.processes import PATIENCE_S, started


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
