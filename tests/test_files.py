"""Files appear whole or not at all, and what cannot be written is named."""

from pathlib import Path

import pytest

from fairlane.files import OutputError, atomic_write


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
