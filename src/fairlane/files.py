"""Writing files so that a reader never sees half of one: write beside, then rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fairlane.core.errors import FairlaneError


class OutputError(FairlaneError):
    """An output file that cannot be written."""


@contextmanager
def atomic_write(path: str | os.PathLike[str], *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a stand-in for `path` and put it in place when the block ends without an error.

    Missing folders are made. When the block raises, or is interrupted, an older file at `path`
    stays as it was and the stand-in is removed. Text is UTF-8 with Unix line ends.
    Raises OutputError, one line naming the file, where it cannot be written.
    """
    target = Path(path).resolve()  # a link stays a link: what it points to is replaced
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: not a regular file; give the name of a file to write")
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(beside, "wb") if binary else open(beside, "w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        try:
            with file:
                yield file
        except OSError as error:
            raise _unwritable(path, error) from error
        os.replace(beside, target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _unwritable(path: str | os.PathLike[str], error: OSError) -> OutputError:
    cause = (error.strerror or str(error)).lower()
    return OutputError(f"{path}: cannot be written ({cause}); choose another output")
