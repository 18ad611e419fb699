"""Traces survive CSV, say what is wrong with them, and are summed up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.files import OutputError
from fairlane.workloads import TracedRequest, TraceError, info, read_csv, write_csv

HEADER = "client,arrival_s,prompt_len,output_len\n"

clients = st.text(min_size=1, max_size=8).filter(str.isprintable)
rows = st.lists(
    st.tuples(
        st.floats(0, 1e9, allow_nan=False), clients, st.integers(1, 10**9), st.integers(1, 10**9)
    ),
    min_size=1,
)


@given(rows=rows)
def test_csv_gives_back_what_it_was_given(
    rows: list[tuple[float, str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows.sort(key=lambda row: row[0])
    requests = [TracedRequest(i, c, t, p, o) for i, (t, c, p, o) in enumerate(rows)]
    path = tmp_path_factory.mktemp("csv") / "trace.csv"
    write_csv(path, requests)
    assert read_csv(path) == requests


def test_columns_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("output_len,note,client,prompt_len,arrival_s\n7,x,anna,5,0.5\n")
    assert read_csv(path) == [TracedRequest(0, "anna", 0.5, 5, 7)]


@pytest.mark.parametrize(
    ("content", "line", "complaint"),
    [
        ("client,arrival_s\n", ":1: ", "no column prompt_len, output_len"),
        ("", ":1: ", "no column"),
        (HEADER + "a,0,5\n", ":2: ", "not as many fields"),
        (HEADER + "a,0,5,5,5\n", ":2: ", "not as many fields"),
        (HEADER + "a,0,5,5\na,soon,5,5\n", ":3: ", "arrival_s must be a number, not 'soon'"),
        (HEADER + "a,-1,5,5\n", ":2: ", "arrival_s must be seconds >= 0"),
        (HEADER + "a,nan,5,5\n", ":2: ", "arrival_s must be seconds >= 0"),
        (HEADER + "a,inf,5,5\n", ":2: ", "arrival_s must be seconds >= 0"),
        (HEADER + "a,2,5,5\nb,1,5,5\n", ":3: ", "before the one above; sort"),
        (HEADER + "a,0,0,5\n", ":2: ", "at least 1, not 0 and 5"),
        (HEADER + "a,0,5,-3\n", ":2: ", "at least 1, not 5 and -3"),
        (HEADER + "a,0,5.5,5\n", ":2: ", "prompt_len must be a whole number, not '5.5'"),
        (HEADER + ",0,5,5\n", ":2: ", "client must be a name"),
        (HEADER + "a,0,60,41\n", ":2: ", "101, more than the memory of 100 tokens"),
        (HEADER, ": ", "holds no requests"),
        (HEADER + 'a,0,5,5\n"a"b,0,5,5\n', ": ", "not a CSV file"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(
    tmp_path: Path, content: str, line: str, complaint: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(TraceError) as caught:
        read_csv(path, max_total_len=100)
    assert str(caught.value).startswith(f"{path}{line}")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lengths_up_to_the_memory_pass(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "a,0,60,40\n")
    assert len(read_csv(path, max_total_len=100)) == 1


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(TraceError, match=r"t\.csv: cannot be read \(no such file"):
        read_csv(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match=r"t\.csv: not a CSV file in UTF-8"):
        read_csv(path)


def test_an_interrupted_write_leaves_the_old_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_csv(path, [TracedRequest(0, "a", 0.0, 1, 1)])
    before = path.read_text()

    def interrupted() -> Iterator[TracedRequest]:
        yield TracedRequest(0, "b", 0.0, 1, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(path, interrupted())
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError):
        write_csv(path / "below-a-file.csv", [])


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(TraceError, match="request 7: client must be a name"):
        write_csv(path, [TracedRequest(7, "a\rb", 0.0, 1, 1)])
    assert not path.exists()


def test_info_of_a_small_trace() -> None:
    requests = [
        TracedRequest(0, "a", 0.0, 10, 1),
        TracedRequest(1, "b", 10.0, 20, 2),
        TracedRequest(2, "a", 20.0, 30, 3),
        TracedRequest(3, "a", 30.0, 40, 4),
    ]
    found = info(requests)
    assert (found.requests, found.duration_s, found.requests_per_minute) == (4, 30.0, 8.0)
    assert (found.prompt.mean, found.prompt.min, found.prompt.max) == (25.0, 10, 40)
    assert (found.output.mean, found.output.p50) == (2.5, 2.5)
    assert [(c.client, c.requests, c.requests_per_minute) for c in found.clients] == [
        ("a", 3, 6.0),
        ("b", 1, 2.0),
    ]
    assert found.clients[0].mean_prompt == pytest.approx(80 / 3)
    assert found.gini == pytest.approx(0.25)  # |3 - 1| / (n * total)
    assert found.gap_cv == 0.0


def test_info_of_the_real_trace(reference_dir: Path) -> None:
    found = info(read_csv(reference_dir / "real_trace.csv"))
    assert (found.requests, len(found.clients), found.duration_s) == (1500, 27, 600.0)
    assert found.prompt.mean == pytest.approx(136, abs=0.5)
    assert found.output.mean == pytest.approx(256, abs=0.5)
