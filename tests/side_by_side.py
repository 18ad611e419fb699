"""Tests run side by side (pytest-xdist), but for those that want the machine to themselves."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def room(turn: Path, place: Path, *, alone: bool) -> Iterator[None]:
    """Be where others may be, or, alone, where nobody is; in any process.

    turn and place: two files that are there, for locks that die with who holds them.
    Who wants to be alone keeps its turn meanwhile, so that those who come later wait behind it.
    """
    with open(turn) as at_the_door, open(place) as inside:
        fcntl.flock(at_the_door, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(at_the_door, fcntl.LOCK_UN)
        yield
