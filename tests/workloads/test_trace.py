"""Traces survive CSV, say what is wrong with them, and are summed up."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.files import OutputError
from fairlane.workloads import TracedRequest, TraceError, info, read_csv, write_csv

HEADER = "client,arrival_s,prompt_len,output_len\n"

clients = st.text(min_size=1, max_size=8).filter(
    lambda name: name.isprintable() and name == name.strip()
)
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
    again = read_csv(path)  # counted from the first arrival
    assert [replace(a, arrival_s=r.arrival_s) for a, r in zip(again, requests, strict=True)] == (
        requests
    )
    shifted = [r.arrival_s - requests[0].arrival_s for r in requests]
    assert [a.arrival_s for a in again] == pytest.approx(shifted, abs=1e-6)
    write_csv(path, again)
    assert read_csv(path) == again


def test_columns_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("output_len,note,client,prompt_len,arrival_s\n7,x,anna,5,0.5\n")
    assert read_csv(path) == [TracedRequest(0, "anna", 0.0, 5, 7)]


@pytest.mark.parametrize(
    ("content", "line", "complaint"),
    [
        ("client,arrival_s\n", ":1: ", "no column prompt_len, output_len"),
        ("", ":1: ", "no column"),
        (HEADER + "a,0,5\n", ":2: ", "not as many fields"),
        (HEADER + "a,0,5,5,5\n", ":2: ", "not as many fields"),
        (HEADER + "a,0,5,5\na,soon,5,5\n", ":3: ", "arrival_s must be a number, not 'soon'"),
        (HEADER + "a,-1,5,5\n", ":2: ", "arrival_s must be seconds >= 0"),
        (HEADER + "a,nan,5,5\n", ":2: ", "arrival_s must be a number, not 'nan'"),
        (HEADER + "a,inf,5,5\n", ":2: ", "arrival_s must be a number, not 'inf'"),
        (HEADER + "a,1e999,5,5\n", ":2: ", "arrival_s must be seconds >= 0, not inf"),
        (HEADER + "a,1.7e12,5,5\n", ":2: ", "too many: milliseconds?"),
        (HEADER + "a,2,5,5\nb,1,5,5\n", ":3: ", "before the one above; sort"),
        (HEADER + "a,0,0,5\n", ":2: ", "at least 1, not 0 and 5"),
        (HEADER + "a,0,5,-3\n", ":2: ", "at least 1, not 5 and -3"),
        (HEADER + "a,0,5.5,5\n", ":2: ", "prompt_len must be a whole number, not '5.5'"),
        (HEADER + ",0,5,5\n", ":2: ", "client must be a name"),
        (HEADER + "a,0,1_000,5\n", ":2: ", "prompt_len must be a whole number, not '1_000'"),
        (HEADER + "a,0,\u0663,5\n", ":2: ", "prompt_len must be a whole number, not '\u0663'"),
        (HEADER + "a,0,1 000,5\n", ":2: ", "prompt_len must be a whole number, not '1 000'"),
        (HEADER + 'a,0,"1,000",5\n', ":2: ", "prompt_len must be a whole number, not '1,000'"),
        (HEADER + "a,0,,5\n", ":2: ", "prompt_len must be a whole number, not ''"),
        (HEADER + "a,0,1e400,5\n", ":2: ", "prompt_len must be a whole number, not '1e400'"),
        (HEADER + "a,0,0x10,5\n", ":2: ", "prompt_len must be a whole number, not '0x10'"),
        (HEADER + "a,1_0,5,5\n", ":2: ", "arrival_s must be a number, not '1_0'"),
        ("client," + HEADER, ":1: ", "the first line names client twice"),
        ("TIMESTAMP,ContextTokens\n", ":1: ", "(it names TIMESTAMP, ContextTokens); the first"),
        (HEADER, ": ", "holds no requests"),
        (HEADER + 'a,0,5,5\n"a"b,0,5,5\n', ": ", "not a CSV file"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(
    tmp_path: Path, content: str, line: str, complaint: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TraceError) as caught:
        read_csv(path)
    assert str(caught.value).startswith(f"{path}{line}")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_spreadsheets_and_people_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "\ufeffclient, arrival_s, prompt_len, output_len, note, note\r\n"
        "anna, 1E1, 374.0, 1e3, x, y\r\n\r\n"
        ' "b, c", 10.50,+44 ,.5e2,,\r\n',
        encoding="utf-8",
    )
    assert read_csv(path) == [
        TracedRequest(0, "anna", 0.0, 374, 1000),
        TracedRequest(1, "b, c", 0.5, 44, 50),
    ]


@pytest.mark.parametrize("clock", ["0", "819000", "1700000000", "99999999999"])
def test_arrivals_are_counted_from_the_first_whatever_the_clock(tmp_path: Path, clock: str) -> None:
    """Exactly so where the clock is written in decimals that a float can tell apart."""
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER}a,{clock}.1,5,5\na,{clock}.1,5,5\nb,{clock}.2,5,5\n")
    assert [request.arrival_s for request in read_csv(path)] == [0.0, 0.0, 0.1]


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


def test_info_is_of_the_time_from_the_first_arrival_on() -> None:
    late = [TracedRequest(i, "a", 819_000.0 + 10 * i, 5, 5) for i in range(4)]
    assert (info(late).duration_s, info(late).requests_per_minute) == (30.0, 8.0)
    alone = info(late[:1])
    assert alone.duration_s == 0
    assert math.isnan(alone.requests_per_minute)
    assert math.isnan(alone.clients[0].requests_per_minute)


def test_info_of_the_real_trace(reference_dir: Path) -> None:
    found = info(read_csv(reference_dir / "real_trace.csv"))
    assert (found.requests, len(found.clients), found.duration_s) == (1500, 27, 600.0)
    assert found.prompt.mean == pytest.approx(136, abs=0.5)
    assert found.output.mean == pytest.approx(256, abs=0.5)
