"""Tokens of streamed answers: counted as they pass, settled by usage, bytes left as they are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.gateway.body import Dialect
from fairlane.gateway.counting import Counter, Usage, usage_of


def event(value: Any, name: str = "", end: str = "\n") -> bytes:
    head = f"event: {name}{end}" if name else ""
    data = value if isinstance(value, str) else json.dumps(value)
    return f"{head}data: {data}{end}{end}".encode()


def chat(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {"role": "assistant"} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
TOLD = event({"choices": [], "usage": USAGE})
STREAM = (
    event(chat())
    + event(chat("a"))
    + event(chat("b"))
    + event(chat("c"))
    + event(chat("", "stop"))
    + TOLD
    + event("[DONE]")
)


def pass_through(counter: Counter, stream: bytes, sizes: list[int]) -> bytes:
    passed = b""
    for size in sizes:
        passed += counter.feed(stream[:size])
        stream = stream[size:]
    return passed + counter.feed(stream) + counter.rest()


@given(sizes=st.lists(st.integers(0, 60)), crlf=st.booleans(), hides=st.booleans())
def test_wherever_the_bytes_break_the_count_is_the_engines(
    sizes: list[int], crlf: bool, hides: bool
) -> None:
    stream, told = STREAM, TOLD
    if crlf:
        stream, told = stream.replace(b"\n", b"\r\n"), told.replace(b"\n", b"\r\n")
    counter = Counter(Dialect.OPENAI, hides_usage=hides)
    passed = pass_through(counter, stream, sizes)
    assert passed == (stream.replace(told, b"") if hides else stream)
    assert counter.usage == Usage(7, 4, 3)
    assert counter.finished
    assert counter.in_all == 3


def test_the_running_count_never_exceeds_what_the_engine_will_say() -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=True)
    for one in STREAM.split(b"\n\n")[:-1]:
        counter.feed(one + b"\n\n")
        assert counter.so_far <= 3
    assert counter.so_far == 3


def test_an_answer_that_is_cut_counts_what_came() -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=True)
    counter.feed(event(chat()) + event(chat("a")) + event(chat("b")) + b'data: {"choices": [{')
    assert (counter.finished, counter.usage, counter.in_all) == (False, None, 3)


def test_several_tokens_in_a_chunk_are_settled_upwards() -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=False)
    told = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 50}}
    counter.feed(event(chat("many words at once")) + event(told) + event("[DONE]"))
    assert counter.in_all == 50


def test_usage_in_every_chunk_is_a_running_count_and_hides_no_token() -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=True)
    passed = b""
    for n in range(1, 6):
        one = event(chat("x", usage={"prompt_tokens": 9, "completion_tokens": 4 * n}))
        passed += counter.feed(one)
        assert counter.so_far == 4 * n
    assert passed.count(b"data:") == 5


def test_a_usage_of_zeros_beside_an_answer_is_none() -> None:
    """Ollama's completions send one with every chunk."""
    counter = Counter(Dialect.OPENAI, hides_usage=True)
    zeros = {"prompt_tokens": 0, "completion_tokens": 0}
    passed = b"".join(counter.feed(event(chat("x", usage=zeros))) for _ in range(4))
    assert passed.count(b"data:") == 4
    assert counter.in_all == 4


def test_null_usage_is_none_and_words_in_an_answer_are_no_usage() -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=True)
    forged = event(chat('"usage": {"completion_tokens": 0}, "choices": []', usage=None))
    assert counter.feed(forged) == forged
    assert (counter.usage, counter.chunks) == (None, 1)


def test_llama_cpp_tells_its_timings() -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=True)
    timings = {"prompt_n": 10, "cache_n": 5, "predicted_n": 8}
    last = event(chat("", "stop", timings=timings))
    assert counter.feed(last + event("[DONE]")) == last + event("[DONE]")
    assert counter.usage == Usage(15, 5, 8)


def test_anthropics_messages_are_counted_with_their_cached_input() -> None:
    counter = Counter(Dialect.MESSAGES, hides_usage=True)
    usage = {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2}
    start = {"type": "message_start", "message": {"usage": {**usage, "output_tokens": 1}}}
    delta = {"type": "content_block_delta", "delta": {"text": "x"}}
    end = {"type": "message_delta", "usage": {"output_tokens": 12}}
    stream = event(start, "message_start") + event({"type": "ping"}, "ping")
    stream += 4 * event(delta, "content_block_delta") + event(end, "message_delta")
    stream += event({"type": "message_stop"}, "message_stop")
    assert pass_through(counter, stream, [50, 50]) == stream
    assert counter.usage == Usage(10, 5, 12)
    assert (counter.finished, counter.chunks, counter.in_all) == (True, 4, 12)


def test_responses_tell_usage_in_their_last_event() -> None:
    counter = Counter(Dialect.RESPONSES, hides_usage=True)
    usage = {"input_tokens": 6, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 2}}
    stream = event({"delta": "a"}, "response.output_text.delta")
    stream += event({"delta": "a"}, "response.reasoning_text.delta")
    stream += event({"response": {"usage": usage}}, "response.completed")
    assert pass_through(counter, stream, []) == stream
    assert counter.usage == Usage(6, 2, 9)
    assert (counter.finished, counter.in_all) == (True, 9)


@pytest.mark.parametrize("value", [-1, "9", None, True, [], 1e400, {"a": 1}])
def test_no_count_of_tokens_is_anything_but_a_number(value: Any) -> None:
    body = json.dumps({"usage": {"prompt_tokens": value, "completion_tokens": value}})
    assert usage_of(Dialect.OPENAI, body.encode()) == Usage(0, 0, 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b"null", b'{"usage": 3}', b"[" * 100_000])
def test_an_answer_without_usage_tells_none(body: bytes) -> None:
    assert usage_of(Dialect.OPENAI, body) is None


def test_an_event_without_an_end_is_passed_on_some_day() -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=True)
    assert not counter.feed(b"data: " + b"x" * 1000)
    assert len(counter.feed(b"x" * (8 << 20))) > 8 << 20


@given(st.binary(max_size=300), st.lists(st.integers(0, 40)))
def test_whatever_comes_is_passed_on(noise: bytes, sizes: list[int]) -> None:
    counter = Counter(Dialect.OPENAI, hides_usage=False)
    assert pass_through(counter, noise, sizes) == noise
