"""Writing files so that a reader never sees half of one: write beside, then rename."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    options: dict[str, Any] = {} if binary else {"encoding": "utf-8", "newline": "\n"}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb" if binary else "w", **options) as file:
            yield file
        beside.replace(target)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise OutputError(f"{path}: cannot be written ({cause}); choose another output") from error
    finally:
        with suppress(OSError):
            beside.unlink()
