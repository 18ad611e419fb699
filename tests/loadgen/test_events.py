"""Events out of bytes: the same wherever the bytes break, in every dialect that servers speak."""

import pytest

from fairlane.loadgen.errors import AnswerError
from fairlane.loadgen.events import LONGEST_OTHER, Event, EventParser

STREAM = (
    b"\xef\xbb\xbfdata: marked\n\n"
    b": keep-alive\n\nevent: x\r\ndata: one\r\n\r\ndata:two\nid: 7\n\n"
    b"data: first\ndata: second\n\nevent: gone\n\ndata: by CR\r\r"
    b'data:\n\nerror: {"code":500}\n\ndata: [DONE]\n'
)
EVENTS = [
    Event("", b"marked"),
    Event("x", b"one"),
    Event("", b"two"),
    Event("", b"first\nsecond"),
    Event("", b"by CR"),
    Event("", b""),
    Event("error", b'{"code":500}'),
    Event("", b"[DONE]"),  # which the end of the body ends
]


def events(*parts: bytes) -> list[Event]:
    parser = EventParser()
    return [*(found for part in parts for found in parser.feed(part)), *parser.end()]


@pytest.mark.parametrize("first", range(len(STREAM) + 1))
def test_events_are_the_same_wherever_the_bytes_break(first: int) -> None:
    assert events(STREAM[:first], STREAM[first:]) == EVENTS


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_events_are_the_same_byte_by_byte_and_with_any_end_of_line(end: bytes) -> None:
    stream = STREAM.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", end)
    assert events(*(bytes([byte]) for byte in stream)) == EVENTS


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n"])
def test_event_comes_with_the_bytes_that_end_it(end: bytes) -> None:
    assert list(EventParser().feed(b"data: one" + end)) == [Event("", b"one")]


@pytest.mark.parametrize("piece", [b"x" * 400_000, b"data: " + b"x" * 400_000 + b"\n"])
def test_event_without_end_is_an_error_before_it_fills_memory(piece: bytes) -> None:
    parser = EventParser()
    for _ in range(2):
        assert not list(parser.feed(piece))
    with pytest.raises(AnswerError, match="without an end"):
        list(parser.feed(piece))


@pytest.mark.parametrize(
    ("piece", "found"),
    [
        (b"data: " + b"x" * 400_000 + b"\n\n", 1),
        (b"data\n\n" * 200_000, 200_000),
        (b": ping\n" * 200_000, 0),
    ],
)
def test_long_stream_is_no_long_event(piece: bytes, found: int) -> None:
    parser = EventParser()
    for _ in range(4):
        assert len(list(parser.feed(piece))) == found


def test_body_that_holds_no_event_is_kept_and_one_that_does_is_not() -> None:
    parser = EventParser()
    assert not [*parser.feed(b': wait\n\n{"error":\r\n "x"'), *parser.feed(b"}"), *parser.end()]
    assert parser.other == b'{"error":\n "x"}\n'
    list(parser.feed(b"data: one\n\n"))
    assert parser.other == b""


def test_no_more_is_kept_than_is_shown() -> None:
    parser = EventParser()
    for _ in range(99):
        list(parser.feed(b"x" * 1000 + b"\n"))
    assert len(parser.other) == LONGEST_OTHER
