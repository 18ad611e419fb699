"""The reading of streams: events wherever bytes break, tokens counted once, broken ends told."""

import json

import pytest

from fairlane.loadgen.stream import Answer, EventParser, StreamError, excerpt, read_error
from tests.loadgen.server import chunk, event, usage

STREAM = (
    b": keep-alive\n\nevent: x\r\ndata: one\r\n\r\ndata:two\nid: 7\n\n"
    b"data: first\ndata: second\n\ndata: [DONE]\n\n"
)
EVENTS = [b"one", b"two", b"first\nsecond", b"[DONE]"]


def read(*events: bytes) -> Answer:
    """The answer after these events, one a second from second 1 on."""
    answer, parser = Answer(), EventParser()
    for second, part in enumerate(events, start=1):
        for data in parser.feed(part):
            answer.take(data, float(second))
    return answer


@pytest.mark.parametrize("first", range(len(STREAM) + 1))
def test_events_are_the_same_wherever_the_bytes_break(first: int) -> None:
    parser = EventParser()
    assert [*parser.feed(STREAM[:first]), *parser.feed(STREAM[first:])] == EVENTS


def test_events_are_the_same_byte_by_byte() -> None:
    parser = EventParser()
    assert [data for byte in STREAM for data in parser.feed(bytes([byte]))] == EVENTS


def test_event_without_end_is_an_error_before_it_fills_memory() -> None:
    parser = EventParser()
    for _ in range(2):
        assert not list(parser.feed(b"x" * 500_000))
    with pytest.raises(StreamError, match="without an end"):
        list(parser.feed(b"x" * 500_000))


def test_tokens_are_the_servers_count_and_times_those_of_chunks() -> None:
    answer = read(
        event(chunk()), event(chunk()), event(chunk(finish="length")), event(usage(9, 5)),
        event("[DONE]"),
    )  # fmt: skip
    answer.end()
    assert (answer.prompt_tokens, answer.tokens, answer.times_s) == (9, 5, [1.0, 2.0, 3.0])
    assert answer.complete


def test_without_usage_chunks_are_counted_and_a_closing_one_is_none() -> None:
    answer = read(event(chunk()), event(chunk()), event(chunk(text="", finish="stop")))
    answer.end()
    assert (answer.tokens, answer.times_s, answer.counted) == (2, [1.0, 2.0], False)


def test_closing_chunk_without_text_is_a_token_where_the_server_counts_it() -> None:
    answer = read(event(chunk()), event(chunk(text="", finish="length")), event(usage(9, 2)))
    assert (answer.tokens, answer.times_s) == (2, [1.0, 2.0])


def test_closing_chunk_without_text_is_none_where_the_server_does_not_count_it() -> None:
    answer = read(event(chunk()), event(chunk(text="", finish="length")), event(usage(9, 1)))
    assert (answer.tokens, answer.times_s) == (1, [1.0])


def test_token_without_text_is_a_token() -> None:
    assert read(event(chunk(text="")), event(chunk())).times_s == [1.0, 2.0]


def test_counts_in_every_chunk_are_not_added_up() -> None:
    first = {**chunk(), "usage": usage(9, 2)["usage"]}
    last = {**chunk(finish="length"), "usage": usage(9, 4)["usage"]}
    answer = read(event(first), event(last))
    assert (answer.tokens, answer.times_s) == (4, [1.0, 2.0])


def test_end_before_the_finish_reason_is_an_error() -> None:
    with pytest.raises(StreamError, match="broken off"):
        read(event(chunk())).end()


def test_answer_without_a_token_is_an_error() -> None:
    with pytest.raises(StreamError, match="no token"):
        read(event(chunk(text="", finish="stop")), event(usage(9, 0))).end()


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        ("{half", "malformed stream", "not JSON: {half"),
        ("7", "malformed stream", "not a chunk of a completion: 7"),
        ('{"choices": 3}', "malformed stream", 'not a chunk of a completion: {"choices": 3}'),
        ('{"choices": [3]}', "malformed stream", 'not a chunk of a completion: {"choices": [3]}'),
        ('{"choices": [], "usage": {"x": 1}}', "malformed stream", "usage without counts"),
        ('{"error": {"message": "out of memory", "code": 500}}', "error in the stream", "out of"),
        ('{"error": "gone"}', "error in the stream", "gone"),
    ],
)
def test_what_is_no_chunk_is_told(data: str, kind: str, detail: str) -> None:
    with pytest.raises(StreamError) as caught:
        read(event(data))
    assert caught.value.kind == kind
    assert caught.value.detail.startswith(detail)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "slow", "code": "rpm"}}, ("rpm", "slow")),
        ({"error": {"message": "slow", "type": "rate", "code": 429}}, ("rate", "slow")),
        ({"error": {"message": "slow\n\x1b[31mred", "type": None}}, ("", "slow ?[31mred")),
        ({"error": "slow"}, ("", "slow")),
        ({"detail": "slow"}, ("", '{"detail": "slow"}')),
        ([1], ("", "[1]")),
    ],
)
def test_errors_are_read_in_any_shape(body: object, expected: tuple[str, str]) -> None:
    assert read_error(json.dumps(body).encode()) == expected


def test_excerpt_is_one_short_line() -> None:
    assert excerpt(b"a\r\n\tb\x00\xff") == "a b?\ufffd"
    assert len(excerpt("x" * 10_000)) == 160
