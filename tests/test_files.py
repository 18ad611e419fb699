"""Files appear whole or not at all, and what cannot be written is named."""

import fcntl
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlane.files import OutputError, atomic_write, locked


def test_text_and_bytes_arrive(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "folder" / "a.txt") as file:
        file.write("é\n")
    with atomic_write(tmp_path / "b", binary=True) as file:
        file.write(b"\x00")
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "b").read_bytes() == b"\x00"


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as file:
        file.write("half of")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "half of"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, OSError])
def test_an_interrupted_write_leaves_the_good_file_alone(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("good")

    def write_half() -> None:
        with atomic_write(path) as file:
            file.write("half of")
            raise stop

    with pytest.raises(OutputError if stop is OSError else stop):
        write_half()
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_outputs_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    below = tmp_path / "file" / "a.txt"
    with (
        pytest.raises(OutputError, match=r"a\.txt: cannot be written \(.*\); choose another"),
        atomic_write(below),
    ):
        pass
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(OutputError, match="not a regular file"), atomic_write(tmp_path):
        pass


def test_links_are_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with atomic_write(link) as file:
        file.write("through the link")
    assert link.is_symlink()
    assert target.read_text() == "through the link"


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664, 0o444])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_replaced_file_keeps_its_mode_and_a_new_one_obeys_the_umask(
    tmp_path: Path, mode: int, umask: int
) -> None:
    path, new = tmp_path / "a.txt", tmp_path / "new.txt"
    path.write_text("old")
    path.chmod(mode)
    before = os.umask(umask)
    try:
        for file in (path, new):
            with atomic_write(file) as writing:
                writing.write("text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~umask
    assert path.read_text() == "text"


def test_what_is_being_written_is_shown_to_nobody_new(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("secret")
    path.chmod(0o600)
    with atomic_write(path) as file:
        file.write("secret")
        modes = {stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()}
    assert modes == {0o600}


def test_a_replaced_file_keeps_its_extended_attributes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    try:
        os.setxattr(path, "user.note", b"kept")
    except (AttributeError, OSError):
        pytest.skip("this file system has no extended attributes")
    with atomic_write(path) as file:
        file.write("new")
    assert os.getxattr(path, "user.note") == b"kept"


OTHER = 12345  # a user and group that is neither root nor anybody else here
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be two users"
)


def as_another_user(action: str, path: Path) -> str:
    """Do it, with the file's `path`, in a process of that user; what is said if it goes wrong."""
    command = f"""
import fcntl, os
from pathlib import Path
from fairlane.files import OutputError, atomic_write, locked
path = Path({str(path)!r})
os.setgroups([])
os.setgid({OTHER})
os.setuid({OTHER})  # with everything imported: the interpreter may be closed to others
try:
    {action}
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which every user may write (pytest's own are closed to others)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@as_root
def test_a_file_that_root_replaces_stays_its_owners(open_folder: Path) -> None:
    path = open_folder / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    os.chown(path, OTHER, OTHER + 1)
    with atomic_write(path) as file:
        file.write("new")
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OTHER, OTHER + 1, 0o600)
    assert as_another_user("path.read_text()", path) == ""


@as_root
def test_who_cannot_leave_a_file_to_its_owner_does_not_take_it(open_folder: Path) -> None:
    path = open_folder / "a.txt"
    path.write_text("old")
    said = as_another_user("atomic_write(path).__enter__()", path)
    assert "a.txt: cannot be written without taking it from its owner (user 0, group 0)" in said
    assert path.read_text() == "old"
    assert path.stat().st_uid == 0
    assert list(open_folder.iterdir()) == [path]


@as_root
@pytest.mark.parametrize("folder_mode", [0o777, 0o770])
def test_a_lock_that_root_made_can_be_taken_by_who_may_write_there(
    open_folder: Path, folder_mode: int
) -> None:
    os.chown(open_folder, 0, OTHER)
    open_folder.chmod(folder_mode)
    path = open_folder / "a.txt"
    before = os.umask(0o077)
    try:
        with locked(path):
            pass
    finally:
        os.umask(before)
    take = "locked(path).__enter__()"
    assert as_another_user(take, path) == ""
    os.chown(open_folder, 0, 0)
    open_folder.chmod(0o755)
    (lock,) = open_folder.iterdir()
    lock.unlink()
    assert "cannot be opened (permission denied)" in as_another_user(take, path)


def test_all_names_of_a_file_have_one_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real" / "a.txt")
    with locked(link):
        (lock,) = (tmp_path / "real").iterdir()
        with open(lock) as handle, pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_follows_no_link_of_somebody_elses(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / ".a.txt.lock").symlink_to(victim)
    with pytest.raises(OutputError, match="cannot be opened"), locked(tmp_path / "a.txt"):
        pass
    assert victim.read_text() == "kept"
