"""What the official clients ask, in every dialect that engines with a model of their own serve."""

from typing import Any

import anthropic
import openai

QUESTION: Any = [{"role": "user", "content": "w1 w2 w3"}]


def ask_in_every_dialect(url: str, key: str, model: str) -> None:
    """Whole answers and streams, one answer each; all must be good."""
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as one,
        anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as other,
    ):
        # Not drawn at random: of an answer that begins with a character of several tokens (an
        # emoji), llama.cpp's stream of messages lacks its first event, `message_start`.
        best: dict[str, Any] = {"model": model, "extra_body": {"temperature": 0}}
        text: dict[str, Any] = {**best, "prompt": "w1 w2 w3", "max_tokens": 9}
        chat: dict[str, Any] = {**best, "messages": QUESTION, "max_tokens": 20}
        answer: dict[str, Any] = {**best, "input": "w1 w2", "max_output_tokens": 20}
        assert one.completions.create(**text).usage
        assert list(one.completions.create(**text, stream=True))
        assert one.chat.completions.create(**chat).usage
        chunks = list(one.chat.completions.create(**chat, stream=True))
        assert all(chunk.choices for chunk in chunks)  # its usage was not asked for
        assert one.responses.create(**answer).usage
        *_, last = one.responses.create(**answer, stream=True)
        assert last.response.usage
        assert other.messages.create(**chat).usage.output_tokens
        with other.messages.stream(**chat) as messages:
            assert messages.get_final_message().usage.output_tokens


def ask_for_two(url: str, key: str, model: str) -> None:
    """Two answers to one prompt, whole and streamed."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as one:
        chat: dict[str, Any] = {"model": model, "messages": QUESTION, "max_tokens": 20, "n": 2}
        assert len(one.chat.completions.create(**chat).choices) == 2
        chunks = list(one.chat.completions.create(**chat, stream=True))
        assert {chunk.choices[0].index for chunk in chunks} == {0, 1}
