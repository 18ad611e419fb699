"""Who runs alone does, and does not wait for ever while others come and go."""

import time
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest

from tests.processes import PATIENCE_S
from tests.side_by_side import room


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    names = tmp_path / "turn", tmp_path / "place"
    for name in names:
        name.touch()
    return names


def test_others_are_there_at_once(files: tuple[Path, Path]) -> None:
    met = Barrier(3)

    def visit() -> None:
        with room(*files, alone=False):
            met.wait(PATIENCE_S)

    threads = [Thread(target=visit) for _ in range(2)]
    for thread in threads:
        thread.start()
    visit()
    for thread in threads:
        thread.join(PATIENCE_S)


def test_alone_is_alone_though_others_come_and_go_all_the_time(files: tuple[Path, Path]) -> None:
    present: set[int] = set()
    met: list[int] = []  # by who was alone
    enough = Event()

    def visit(number: int) -> None:
        while not enough.is_set():
            with room(*files, alone=False):
                present.add(number)
                time.sleep(0.001)  # long enough to be met there
                present.discard(number)

    threads = [Thread(target=visit, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            with room(*files, alone=True):
                met += present
    finally:
        enough.set()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert met == []
