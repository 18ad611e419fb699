"""The reading of answers: tokens counted once and timed when they came, broken ends told."""

import json
from typing import Any

import pytest

from fairlane.loadgen.errors import AnswerError
from fairlane.loadgen.events import EventParser
from fairlane.loadgen.stream import Answer
from tests.loadgen.server import chunk, event, usage


def read(*events: bytes, asked: int = 99) -> Answer:
    """The answer after these events, one a second from second 1 on."""
    answer, parser = Answer(asked), EventParser()
    for second, part in enumerate(events, start=1):
        for found in parser.feed(part):
            answer.take(found, float(second))
    return answer


def kind_of(*events: bytes, asked: int = 99) -> str:
    """What an answer that ended after these events was, "finished" or a kind of failure."""
    try:
        read(*events, asked=asked).end()
    except AnswerError as error:
        return error.kind
    return "finished"


def test_tokens_are_the_servers_count_and_times_those_of_chunks() -> None:
    answer = read(
        event(chunk()), event(chunk()), event(chunk(finish="length")), event(usage(9, 5)),
        event("[DONE]"),
    )  # fmt: skip
    answer.end()
    assert (answer.prompt_tokens, answer.tokens, answer.times_s()) == (9, 5, [1.0, 2.0, 3.0])
    assert answer.complete


def test_without_usage_chunks_are_counted_and_a_closing_one_is_none() -> None:
    answer = read(event(chunk()), event(chunk()), event(chunk(text="", finish="stop")))
    answer.end()
    assert (answer.tokens, answer.times_s(), answer.counted) == (2, [1.0, 2.0], False)


def test_closing_chunk_without_text_is_a_token_where_the_server_counts_it() -> None:
    answer = read(event(chunk()), event(chunk(text="", finish="length")), event(usage(9, 2)))
    assert (answer.tokens, answer.times_s()) == (2, [1.0, 2.0])


def test_closing_chunk_without_text_is_none_where_the_server_does_not_count_it() -> None:
    answer = read(event(chunk()), event(chunk(text="", finish="length")), event(usage(9, 1)))
    assert (answer.tokens, answer.times_s()) == (1, [1.0])


def role() -> dict[str, Any]:
    """The first chunk of a proxy that answers as for a chat: no token yet."""
    return {"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}


@pytest.mark.parametrize(
    "first", [chunk(text=""), chunk(text=None), {"choices": [{"index": 0}]}, role()]
)
@pytest.mark.parametrize("count", [event(usage(9, 2)), b""])
def test_first_chunk_without_a_token_is_none(first: dict[str, Any], count: bytes) -> None:
    answer = read(event(first), event(chunk()), event(chunk(finish="length")), count)
    answer.end()
    assert (answer.tokens, answer.times_s()) == (2, [2.0, 3.0])


def test_first_token_without_text_is_one_where_the_server_counts_it() -> None:
    answer = read(
        event(role()), event(chunk(text="")), event(chunk(text="")), event(chunk(finish="length")),
        event(usage(9, 3)),
    )  # fmt: skip
    assert (answer.tokens, answer.times_s()) == (3, [2.0, 3.0, 4.0])


def test_later_chunk_without_text_is_a_token_unless_the_server_counts_none() -> None:
    events = [event(chunk()), event(chunk(text="")), event(chunk(finish="length"))]
    assert read(*events).times_s() == [1.0, 2.0, 3.0]
    assert read(*events, event(usage(9, 2))).times_s() == [1.0, 3.0]


def test_text_of_a_chat_is_text() -> None:
    said = {"choices": [{"delta": {"content": " hi"}, "finish_reason": None}]}
    assert read(event(role()), event(said), event(chunk(finish="stop"))).times_s() == [2.0, 3.0]


def test_several_choices_in_a_chunk_are_one_token() -> None:
    both = {"choices": [{"index": 0, "text": "a"}, {"index": 1, "text": "b"}]}
    answer = read(event(both), event(chunk(finish="length")))
    assert (answer.tokens, answer.times_s()) == (2, [1.0, 2.0])


def test_counts_in_every_chunk_are_not_added_up() -> None:
    first = {**chunk(), "usage": usage(9, 2)["usage"]}
    last = {**chunk(finish="length"), "usage": usage(9, 4)["usage"]}
    answer = read(event(first), event(last))
    assert (answer.tokens, answer.times_s()) == (4, [1.0, 2.0])


def test_chunks_after_a_count_are_added_to_it() -> None:
    """Some count the prompt with the first chunk and then no more."""
    first = {**chunk(), "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    answer = read(event(first), event(chunk()), event(chunk(finish="length")))
    assert (answer.prompt_tokens, answer.tokens, answer.counted) == (9, 3, False)


@pytest.mark.parametrize("no_choices", [{}, {"choices": None}, {"choices": []}])
def test_counts_may_come_without_choices(no_choices: dict[str, Any]) -> None:
    counts = {**no_choices, "usage": usage(9, 2)["usage"]}
    answer = read(event(chunk()), event(chunk(finish="length")), event(counts))
    answer.end()
    assert (answer.prompt_tokens, answer.tokens, answer.counted) == (9, 2, True)


@pytest.mark.parametrize(
    "counts",
    [
        None, {}, "many", [], {"x": 1},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": -1, "completion_tokens": "2"},
        {"prompt_tokens": 10**400, "completion_tokens": 10**400},
        {"prompt_tokens": True, "completion_tokens": 2.5},
        {"prompt_tokens": 0, "completion_tokens": 0},  # where text came
    ],
)  # fmt: skip
def test_counts_that_are_none_leave_the_answer_uncounted(counts: Any) -> None:
    answer = read(event({**chunk(), "usage": counts}), event(chunk(finish="stop")), event("[DONE]"))
    answer.end()
    assert (answer.prompt_tokens, answer.tokens, answer.counted) == (None, 2, False)


def test_fewer_tokens_than_chunks_with_text_are_the_servers_word() -> None:
    answer = read(event(chunk()), event(chunk()), event(chunk(finish="stop")), event(usage(9, 1)))
    assert (answer.tokens, answer.times_s()) == (1, [1.0, 2.0, 3.0])


DONE = event("[DONE]")
OPEN_ENDED = [event(chunk(finish=""))] * 3


@pytest.mark.parametrize("reason", ["", "null", "not_finished", 0, False])
def test_finish_reason_that_is_none_is_no_end(reason: Any) -> None:
    events = [event(chunk(finish=reason))] * 3
    assert kind_of(*events, asked=5) == "stream broken off"
    assert kind_of(*events, DONE, asked=5) == "stream broken off"


def test_all_tokens_asked_for_and_an_end_are_an_end_without_a_reason() -> None:
    assert kind_of(*OPEN_ENDED, DONE, asked=3) == "finished"
    assert kind_of(*OPEN_ENDED, asked=3) == "finished"
    assert not read(*OPEN_ENDED, asked=3).complete  # an end out of order is none


@pytest.mark.parametrize("reason", ["stop", "length", "eos_token", "repetition", "content_filter"])
def test_reasons_of_the_model_finish_an_answer(reason: str) -> None:
    assert kind_of(event(chunk()), event(chunk(finish=reason)), DONE) == "finished"


@pytest.mark.parametrize("reason", ["abort", "error", "timeout", "cancelled"])
def test_reasons_of_a_server_that_gave_up_do_not(reason: str) -> None:
    with pytest.raises(AnswerError) as caught:
        read(event(chunk()), event(chunk(text="", finish=reason)), DONE, asked=5)
    assert caught.value.kind == "given up by the server"
    assert caught.value.detail == f"finish reason {reason} after 1 of 5 tokens"


def test_nothing_more_matters_after_done_or_the_last_count() -> None:
    last = event(chunk(finish="length"))
    assert not read(event(chunk()), last).done
    assert read(event(chunk()), last, DONE).done
    assert read(event(chunk()), last, event(usage(9, 2))).done
    assert not read(event(usage(9, 0)), event(chunk())).done


def test_answer_without_a_token_is_an_error() -> None:
    assert kind_of(event(chunk(text="", finish="stop")), event(usage(9, 0))) == "no token"


@pytest.mark.parametrize(
    "kept_alive",
    [
        b": ping\n\n", b"data:\n\n", b"data: \n\n", b"data\n\n", b"\n\n", b"retry: 3\n\n",
        b"event: ping\ndata: 2024-04-07 20:20:50\n\n", b'event: keep-alive\ndata: ""\n\n',
        b"event: response.keep_alive\ndata: {}\n\n", b"event: heartbeat\ndata: {oops\n\n",
        event("null"), event({}), event({"type": "ping"}), event({"choices": None}),
        event({"choices": [], "prompt_filter_results": []}), event({"choices": [], "error": None}),
    ],
)  # fmt: skip
def test_keep_alives_are_passed_over(kept_alive: bytes) -> None:
    answer = read(
        kept_alive, event(chunk()), kept_alive, event(chunk(finish="length")), kept_alive,
        event(usage(9, 2)), DONE,
    )  # fmt: skip
    answer.end()
    assert (answer.tokens, answer.times_s(), answer.counted) == (2, [2.0, 4.0], True)


def test_time_of_a_keep_alive_is_no_time_of_the_answer() -> None:
    assert read(event(chunk()), event(chunk(finish="stop")), b"data:\n\n", DONE).last_s == 2.0


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        ("{half", "malformed stream", "not JSON: {half"),
        ("[" * 100_000, "malformed stream", "not JSON: [[["),
        ("7", "malformed stream", "not a chunk of a completion: 7"),
        ("[]", "malformed stream", "not a chunk of a completion: []"),
        ('{"choices": 3}', "malformed stream", 'not a chunk of a completion: {"choices": 3}'),
        ('{"choices": [3]}', "malformed stream", 'not a chunk of a completion: {"choices": [3]}'),
        ('{"error": {"message": "out of memory", "code": 500}}', "error in the stream 500", "out "),
        ('{"error": "gone"}', "error in the stream", "gone"),
        (
            '{"choices": [{"text": ""}], "error": {"message": "gone"}}',
            "error in the stream",
            "gone",
        ),
        ('{"object": "error", "message": "gone", "code": 4}', "error in the stream 4", "gone"),
        ('{"text": "NETWORK", "error_code": 50002}', "error in the stream 50002", '{"text": "NET'),
        ('{"detail": "gone"}', "error in the stream", "gone"),
    ],
)
def test_what_is_no_chunk_is_told(data: str, kind: str, detail: str) -> None:
    with pytest.raises(AnswerError) as caught:
        read(event(data))
    assert caught.value.kind == kind
    assert caught.value.detail.startswith(detail)


@pytest.mark.parametrize(
    "told",
    [
        b'event: error\ndata: {"message": "gone", "code": 500}\n\n',
        b"event: error\ndata: gone\n\n",
        b'error: {"code": 500, "message": "gone"}\n\n',
    ],
)
def test_events_named_error_are_errors(told: bytes) -> None:
    with pytest.raises(AnswerError, match=r"error in the stream.*: gone"):
        read(event(chunk()), told)


def test_stream_of_something_else_is_named_by_its_first_event() -> None:
    """As of a server's own, not OpenAI's, way to stream."""
    with pytest.raises(AnswerError, match=r'not a chunk of a completion: {"token"'):
        read(event({"token": {"text": " hi"}}), event({"token": {"text": " ho"}})).end()


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        (
            {"error": {"message": "out of memory", "type": "Dead", "code": 500}},
            "200 Dead",
            "out of",
        ),
        ({"error": "gone"}, "200", "gone"),
        ({"choices": [{"text": "a b"}], "usage": {}}, "no stream", "a completion in one piece"),
        ({"x": 1}, "no stream", '{"x": 1}'),
        ("<html>Log in</html>", "no stream", "<html>Log in</html>"),
    ],
)
def test_body_that_is_no_stream_is_told(body: Any, kind: str, detail: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(AnswerError) as caught:
        Answer(5).end(text.encode())
    assert caught.value.kind == kind
    assert caught.value.detail.startswith(detail)
