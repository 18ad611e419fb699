"""Writing files so that a reader never sees half of one: write beside, then rename.

What is replaced keeps its owner, group, mode, access list and extended attributes, so that whoever
could read it still can. Other hard links to it keep the old content.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fairlane.core.errors import FairlaneError

_READ_AND_WRITE = 0o666


class OutputError(FairlaneError):
    """An output file that cannot be written."""


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], *, binary: bool = False, mode: int = _READ_AND_WRITE
) -> Iterator[IO[Any]]:
    """Open a stand-in for `path` and put it in place when the block ends without an error.

    mode: the rights of a file that is new, less the umask; one that is replaced keeps its own.
    Missing folders are made. When the block raises, or is interrupted, an older file at `path`
    stays as it was and the stand-in is removed. Text is UTF-8, written with the line ends it has.
    Raises OutputError, one line naming the file, where it cannot be written, or where it belongs
    to somebody whose it would not stay.
    """
    target = Path(path).resolve()  # a link stays a link: what it points to is replaced
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: not a regular file; give the name of a file to write")
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    options: dict[str, Any] = {} if binary else {"encoding": "utf-8", "newline": ""}
    replaces = target.exists()

    def create(name: str, flags: int) -> int:
        return os.open(name, flags, 0o600 if replaces else mode)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "xb" if binary else "x", opener=create, **options) as file:
            if replaces:
                _make_alike(target, beside)
            yield file
        beside.replace(target)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise OutputError(f"{path}: cannot be written ({cause}); choose another output") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def _make_alike(target: Path, beside: Path) -> None:
    """Give an empty stand-in the owner, group, rights and attributes of what it will replace."""
    old, new = target.stat(), beside.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.chown(beside, old.st_uid, old.st_gid)
        except OSError as error:
            raise OutputError(
                f"{target}: cannot be written without taking it from its owner (user "
                f"{old.st_uid}, group {old.st_gid}); write it as that user, or choose another"
            ) from error
    shutil.copystat(target, beside)


def stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What differs once a file was written or replaced; None where there is none. One stat."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold off others who change the same file, by a lock beside it.

    Whoever may write in the folder, and so replace the file, may take the lock, whoever made it.
    Raises OutputError where it cannot be taken.
    """
    import fcntl  # Windows has none

    target = path.resolve()  # all names of a file have one lock
    lock = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _open_lock(lock)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise OutputError(f"{lock}: cannot be opened ({cause}); may you write there?") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_lock(lock: Path) -> int:
    """Open a lock's file, or make it, with the rights that its folder gives; never another's."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, _READ_AND_WRITE)
    except FileExistsError:
        try:
            return os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except PermissionError:  # enough for a lock, but on NFS
            return os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    folder = lock.parent.stat()
    with suppress(PermissionError):
        os.fchown(handle, -1, folder.st_gid)
        os.fchown(handle, folder.st_uid, -1)
    os.fchmod(handle, folder.st_mode & _READ_AND_WRITE)
    return handle
