"""The API as its clients see it: answers, chunks, counts, errors."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from fairlane.simulated.words import count_tokens
from tests.simulated.engines import Running, ask, running

MODEL = "tiny"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def engine() -> Iterator[Running]:
    with running(model=MODEL, memory_tokens=8192) as one:
        yield one


@pytest.fixture(scope="module")
def client(engine: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="any", max_retries=0) as one:
        yield one


def exactly(tokens: int, **fields: Any) -> dict[str, Any]:
    return {"max_tokens": tokens, "ignore_eos": True, **fields}


def test_chat_streams_a_role_then_a_token_a_chunk_then_the_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi hi hi"}],
            stream=True,
            stream_options={"include_usage": True},
            max_completion_tokens=7,
            extra_body={"ignore_eos": True},
        )
    )
    first, *tokens, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert len(tokens) == 7
    assert [c.choices[0].finish_reason for c in tokens] == [None] * 6 + ["length"]
    assert all(count_tokens(c.choices[0].delta.content or "") == 1 for c in tokens)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.prompt_tokens == 3 + 4 + 3  # three words, a message, the answer's beginning
    assert (usage.usage.completion_tokens, usage.usage.total_tokens) == (7, 17)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_and_a_whole_answer_say_the_same(client: openai.OpenAI) -> None:
    for n in (1, 3):
        whole = client.completions.create(model=MODEL, prompt="to be", n=n, max_tokens=400)
        said = [""] * n
        for chunk in client.completions.create(
            model=MODEL, prompt="to be", n=n, max_tokens=400, stream=True
        ):
            for choice in chunk.choices:
                said[choice.index] += choice.text
        assert said == [choice.text for choice in whole.choices]
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 2
        assert whole.usage.completion_tokens == sum(map(count_tokens, said))
        assert len(set(said)) == n


def test_chat_without_a_stream(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}], n=2
    )
    assert [choice.message.role for choice in answer.choices] == ["assistant"] * 2
    lengths = [count_tokens(choice.message.content or "") for choice in answer.choices]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(lengths)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("six letters at most a piece", 7), (" hi" * 11, 11), ("你好", 2),
        ([7, 8, 9], 3), (["a b", "c"], 3), ([[1, 2], [3]], 3),
    ],
)  # fmt: skip
def test_prompts_of_every_kind_are_counted(engine: Running, prompt: Any, tokens: int) -> None:
    many = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    answer = ask(engine.url, COMPLETIONS, {"prompt": prompt, "n": 2, **exactly(3)}).json
    assert answer["usage"] == {
        "prompt_tokens": tokens, "completion_tokens": 6 * many, "total_tokens": tokens + 6 * many,
    }  # fmt: skip
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * many))


def test_chunks_have_the_fields_of_vllms(engine: Running) -> None:
    """In the order in which its classes have them."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": [1, 2], "stream": True, "stream_options": options, **exactly(2)}
    first, last, usage = ask(engine.url, COMPLETIONS, body).events
    assert list(first) == ["id", "object", "created", "model", "choices", "usage"]
    assert first["object"] == "text_completion"
    assert list(first["choices"][0]) == [
        "index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids",
        "token_ids",
    ]  # fmt: skip
    assert first["usage"] == {"prompt_tokens": 2, "total_tokens": 3, "completion_tokens": 1}
    assert last["usage"]["completion_tokens"] == 2
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 4)
    body = {"messages": [{"role": "user", "content": "a"}], "stream": True, **exactly(2)}
    role, first, last = ask(engine.url, CHAT, body).events
    assert role["object"] == "chat.completion.chunk"
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "usage" not in role
    assert list(first["choices"][0]) == [
        "index", "delta", "logprobs", "finish_reason", "token_ids"
    ]  # fmt: skip
    assert last["choices"][0]["finish_reason"] == "length"


def test_fewer_chunks_where_the_client_wants_them(engine: Running) -> None:
    body = {"prompt": "a", "stream": True, "stream_interval": 4, **exactly(10)}
    sizes = [
        count_tokens(e["choices"][0]["text"]) for e in ask(engine.url, COMPLETIONS, body).events
    ]
    assert sizes == [1, 4, 4, 1]


def test_an_answer_depends_on_the_question_and_the_seed_alone() -> None:
    questions = [{"prompt": f"question {i}", "max_tokens": 300} for i in range(20)]

    def answers(seed: int, *, backwards: bool = False) -> list[Any]:
        with running(seed=seed, mean_output=50) as one:
            order = reversed(questions) if backwards else questions
            found = [ask(one.url, COMPLETIONS, question).json["choices"] for question in order]
        return found[::-1] if backwards else found

    assert answers(1) == answers(1, backwards=True) != answers(2)


def test_lengths_that_are_left_open_are_drawn_around_the_mean() -> None:
    with running(mean_output=20) as one:
        bodies = [{"prompt": [i], "max_tokens": 1000, "min_tokens": 5} for i in range(200)]
        found = [ask(one.url, COMPLETIONS, body).json for body in bodies]
    lengths = [answer["usage"]["completion_tokens"] for answer in found]
    assert {answer["choices"][0]["finish_reason"] for answer in found} == {"stop"}
    assert min(lengths) == 5
    assert 15 < sum(lengths) / len(lengths) < 30


def test_what_has_no_effect_is_named(engine: Running) -> None:
    body = {"prompt": "a", "max_tokens": 1, "stop": ["x"], "temperature": 0.5, "bad\r\nname": 1}
    answer = ask(engine.url, COMPLETIONS, body)
    assert answer.headers["x-simulated-ignores"] == "stop, temperature"
    answer = ask(engine.url, COMPLETIONS, {"prompt": "a", "max_tokens": 1})
    assert "x-simulated-ignores" not in answer.headers


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (COMPLETIONS, {"prompt": [1] * 4096, "max_tokens": 1}, 400,
         "This model's maximum context length is 4096 tokens. However, the prompt has 4096"),
        (COMPLETIONS, {"prompt": [1] * 96, "max_tokens": 4001}, 400,
         "maximum context length is 4096 tokens. However, 4097 were requested"),
        (CHAT, {"messages": [{"role": "user", "content": "long " * 5000}]}, 400,
         "maximum context length is 4096 tokens"),
        (COMPLETIONS, {"prompt": "a", "model": "gpt-5"}, 404, "The model `gpt-5` does not exist."),
        (COMPLETIONS, {}, 400, "prompt: Field required"),
        (COMPLETIONS, {"prompt": ""}, 400, "prompt must not be empty"),
        (COMPLETIONS, {"prompt": []}, 400, "prompt must be a text, token ids, or a list"),
        (COMPLETIONS, {"prompt": [1, "a"]}, 400, "prompt must be a text, token ids, or a list"),
        (COMPLETIONS, {"prompt": [[1], [True]]}, 400, "token ids must be whole numbers"),
        (COMPLETIONS, {"prompt": [-1]}, 400, "token ids must be whole numbers"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, 400, "max_tokens: Input should be greater"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": "many"}, 400, "max_tokens: Input should be"),
        (COMPLETIONS, {"prompt": "a", "min_tokens": 17}, 400, "min_tokens must be less than"),
        (COMPLETIONS, {"prompt": "a", "n": 0}, 400, "n: Input should be greater than or equal"),
        (COMPLETIONS, {"prompt": ["a"] * 1025}, 400, "at most 1024 answers"),
        (COMPLETIONS, {"prompt": "a", "stream_options": {}}, 400, "need stream=true"),
        (COMPLETIONS, {"prompt": "a", "logprobs": 0}, 400, "logprobs is nothing that a simulated"),
        (CHAT, {"messages": []}, 400, "messages: List should have at least 1 item"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
         "content of type 'image_url'"),
        (CHAT, b"{", 400, "the body is not JSON"),
        (CHAT, b"[" * 100_000, 400, "the body is not JSON"),
        (CHAT, b"\xff", 400, "the body is not JSON"),
        (CHAT, b"[]", 400, "the body must be a JSON object"),
        (COMPLETIONS, b" " * (1 << 24) + b"{}", 413, "the body is longer than"),
        ("/v1/embeddings", {"input": "a"}, 404, "Not Found"),
        ("/health", {}, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_bad_requests_are_told_in_the_shape_of_openais_errors(
    engine: Running, path: str, body: Any, status: int, message: str
) -> None:
    before = engine.engine.counts.sequences
    answer = ask(engine.url, path, body)
    assert answer.status == status
    error = answer.json["error"]
    assert message in error["message"]
    assert (error["code"], set(error)) == (status, {"message", "type", "param", "code"})
    assert engine.engine.counts.sequences == before


def test_openais_client_knows_the_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.completions.create(model=MODEL, prompt="a", max_tokens=5000)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.completions.create(model="other", prompt="a")


def test_the_scheduler_may_turn_requests_away() -> None:
    with running(scheduler="rpm") as one:
        body = {"prompt": "a", "stream": True, "user": "eager", **exactly(1)}
        answers = [ask(one.url, COMPLETIONS, body) for _ in range(40)]
        other = ask(one.url, COMPLETIONS, {**body, "user": "patient"})
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert refused[0].json["error"]["type"] == "RateLimitError"
    assert int(refused[0].headers["retry-after"]) >= 1
    assert other.status == 200
    assert one.engine.counts.ended == {"length": 41 - len(refused), "rejected": len(refused)}


def test_what_else_there_is(engine: Running, client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert (model.id, model.model_dump()["max_model_len"]) == (MODEL, 4096)
    assert ask(engine.url, "/health").status == 200
    assert ask(engine.url, "/version").json["engine"] == "fairlane-simulated"
    text = "the unquestionable ferry"
    tokens = ask(engine.url, "/tokenize", {"prompt": text}).json
    answer = ask(engine.url, COMPLETIONS, {"prompt": text, "max_tokens": 1}).json
    assert tokens["count"] == len(tokens["tokens"]) == answer["usage"]["prompt_tokens"] == 5
    messages = [{"role": "user", "content": text}]
    assert ask(engine.url, "/tokenize", {"messages": messages}).json["count"] == 5 + 7
    assert ask(engine.url, "/tokenize", {"prompt": [1]}).status == 400
    assert json.loads(ask(engine.url, "/simulated").body)["model"] == MODEL
