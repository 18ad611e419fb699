"""What is asked: exact lengths, nothing shared, and the fields of a request."""

import json

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.loadgen.prompts import added_tokens, body, token_prompts, word_prompts
from fairlane.workloads import TracedRequest


def traced(number: int, prompt_len: int) -> TracedRequest:
    return TracedRequest(number, "a", 0.0, prompt_len, 1)


def test_token_prompts_have_their_length_and_depend_on_request_and_seed() -> None:
    prompt = token_prompts(seed=0)
    assert [len(prompt(traced(0, n))) for n in (1, 256)] == [1, 256]
    assert prompt(traced(1, 64)) == token_prompts(seed=0)(traced(1, 64))
    assert prompt(traced(1, 64)) != token_prompts(seed=1)(traced(1, 64))
    begins = {tuple(prompt(traced(i, 64))[:16]) for i in range(500)}
    assert len(begins) == 500  # no block of a prefix cache is met twice


def test_word_prompts_make_room_for_what_the_tokenizer_adds() -> None:
    prompt = word_prompts(added_tokens(one_word=3, eleven_words=13))(traced(0, 10))
    assert isinstance(prompt, str)
    assert len(prompt.split()) == 8


def test_prompts_that_words_cannot_make_are_refused() -> None:
    with pytest.raises(FairlaneError, match="20 tokens of ten words"):
        added_tokens(one_word=3, eleven_words=23)
    with pytest.raises(FairlaneError, match="request 4: a text of 2 tokens is too short"):
        word_prompts(2)(traced(4, 2))


def test_request_asks_for_an_exact_number_of_tokens_and_their_count() -> None:
    assert json.loads(body([11, 12], 7, model="m", user="u")) == {
        "model": "m",
        "prompt": [11, 12],
        "user": "u",
        "max_tokens": 7,
        "min_tokens": 7,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_fields_that_a_server_does_not_take_are_left_out() -> None:
    omit = ("min_tokens", "ignore_eos", "stream_options", "temperature", "user")
    sent = json.loads(body([11], 7, model="m", user="u", omit=omit))
    assert sent == {"model": "m", "prompt": [11], "max_tokens": 7, "stream": True}
