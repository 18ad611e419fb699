"""What a client asks for: bodies of /v1/completions and /v1/chat/completions, checked.

Fields and limits are vLLM's. Whatever would only change which words come is accepted and has no
effect, as the words mean nothing; what would change the shape of the answer and is not done here
is refused.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BaseModel, Field, ValidationError

from fairlane.simulated.words import count_tokens
from fairlane.workloads.lengths import LengthLimit

_MESSAGE_TOKENS = 4  # that a chat template puts around a message, ...
_REPLY_TOKENS = 3  # ... and before the answer
_MOST_SEQUENCES = 1024  # prompts x n of a request
_COMPLETION_TOKENS = 16  # where a completion says nothing
_REFUSED = (
    "echo", "logprobs", "prompt_embeds", "prompt_logprobs", "return_token_ids", "suffix",
    "use_beam_search",
)  # fmt: skip


class BadRequest(Exception):
    """A request that is answered with an error; param: the field that is wrong."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        kind: str = "BadRequestError",
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.kind = kind
        self.retry_after = retry_after


class Prompt(NamedTuple):
    """A prompt: its length in tokens, and what it is, for the answer to depend on."""

    tokens: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. limits: for each prompt, the most tokens of an answer. ignored: fields of it."""

    chat: bool
    prompts: Sequence[Prompt]
    limits: Sequence[int]
    n: int
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    interval: int
    seed: int | None
    user: str
    ignored: Sequence[str]


class _StreamOptions(BaseModel):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(BaseModel):
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    n: Annotated[int, Field(ge=1, le=_MOST_SEQUENCES)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    stream_interval: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    user: Annotated[str, Field(max_length=512)] | None = None


class _Completion(_Body):
    prompt: Any


class _Part(BaseModel):
    type: str
    text: str | None = None


class _Message(BaseModel):
    role: str
    content: str | list[_Part] | None = None


class _Chat(_Body):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


B = TypeVar("B", bound=BaseModel)


def read_json(content: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises BadRequest."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body


def read_completion(body: dict[str, Any], model: str, limits: LengthLimit) -> Asked:
    """A request to /v1/completions. Raises BadRequest."""
    fields = _checked(_Completion, body, model)
    most = fields.max_tokens or _COMPLETION_TOKENS
    return _asked(fields, body, prompts_of(fields.prompt), most, limits)


def read_chat(body: dict[str, Any], model: str, limits: LengthLimit) -> Asked:
    """A request to /v1/chat/completions. Raises BadRequest."""
    fields = _checked(_Chat, body, model)
    most = fields.max_completion_tokens or fields.max_tokens
    return _asked(fields, body, [chat_prompt(fields.messages)], most, limits)


def check_model(wanted: str | None, model: str) -> None:
    """Raises BadRequest for another model than there is."""
    if wanted is not None and wanted != model:
        raise BadRequest(
            f"The model `{wanted[:200]}` does not exist.", "model", status=404, kind="NotFoundError"
        )


def prompts_of(value: Any) -> list[Prompt]:
    """Of a text, token ids, or a list of either. Raises BadRequest."""
    if isinstance(value, str):
        return [_text_prompt(value)]
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return [_ids_prompt(value)]
        if all(isinstance(item, str) for item in value):
            return [_text_prompt(item) for item in value]
        if all(isinstance(item, list) for item in value):
            return [_ids_prompt(item) for item in value]
    raise BadRequest("prompt must be a text, token ids, or a list of either", "prompt")


def chat_prompt(messages: Iterable[_Message]) -> Prompt:
    """The prompt that a chat template makes of messages. Raises BadRequest."""
    tokens, said = _REPLY_TOKENS, []
    for message in messages:
        content = message.content or ""
        if not isinstance(content, str):
            for part in content:
                if part.text is None:
                    raise BadRequest(f"content of type {part.type!r}: text alone", "messages")
            content = "".join(part.text or "" for part in content)
        tokens += _MESSAGE_TOKENS + count_tokens(content)
        said.append([message.role, content])
    return Prompt(tokens, json.dumps(said).encode())


def read_messages(body: dict[str, Any], model: str) -> Prompt:
    """The prompt of a body with messages, whatever else it holds. Raises BadRequest."""
    return chat_prompt(_checked(_Chat, body, model).messages)


def _text_prompt(text: str) -> Prompt:
    if not text:
        raise BadRequest("prompt must not be empty", "prompt")
    return Prompt(count_tokens(text), text.encode(errors="surrogatepass"))


def _ids_prompt(ids: list[Any]) -> Prompt:
    if not ids or not all(type(item) is int and item >= 0 for item in ids):
        raise BadRequest("token ids must be whole numbers from 0, at least one", "prompt")
    return Prompt(len(ids), repr(ids).encode())


def _checked(kind: type[B], body: dict[str, Any], model: str) -> B:
    try:
        fields = kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{name}: {first['msg']}", str(first["loc"][0])) from None
    if isinstance(fields, _Body):
        check_model(fields.model, model)
    for name in _REFUSED:
        if body.get(name) is not None and body[name] is not False:
            raise BadRequest(f"{name} is nothing that a simulated engine can do", name)
    return fields


def _asked(
    fields: _Body,
    body: dict[str, Any],
    prompts: list[Prompt],
    most: int | None,
    limits: LengthLimit,
) -> Asked:
    n, least = fields.n or 1, fields.min_tokens or 0
    if len(prompts) * n > _MOST_SEQUENCES:
        raise BadRequest(f"at most {_MOST_SEQUENCES} answers a request", "n")
    if fields.stream_options is not None and not fields.stream:
        raise BadRequest("stream_options need stream=true", "stream_options")
    options = fields.stream_options or _StreamOptions()
    usage = bool(options.include_usage)
    room = [_room(prompt.tokens, most, limits) for prompt in prompts]
    if least > min(room):
        raise BadRequest(
            f"min_tokens must be less than or equal to max_tokens={min(room)}, got {least}",
            "min_tokens",
        )
    return Asked(
        chat=isinstance(fields, _Chat),
        prompts=prompts,
        limits=room,
        n=n,
        min_tokens=least,
        ignore_eos=bool(fields.ignore_eos),
        stream=bool(fields.stream),
        include_usage=usage,
        continuous_usage=usage and bool(options.continuous_usage_stats),
        interval=fields.stream_interval or 1,
        seed=fields.seed,
        user=fields.user or "",
        ignored=[name for name in body if name not in type(fields).model_fields],
    )


def _room(prompt: int, most: int | None, limits: LengthLimit) -> int:
    """The most tokens of an answer. Raises BadRequest for what does not fit, as vLLM says it."""
    context = f"This model's maximum context length is {limits.total} tokens."
    if prompt > limits.prompt:
        raise BadRequest(
            f"{context} However, the prompt has {prompt}, and at most {limits.prompt} leave room "
            "for an answer. Please shorten the prompt.", "prompt",
        )  # fmt: skip
    if most is None:
        return limits.total - prompt
    if prompt + most > limits.total:
        raise BadRequest(
            f"{context} However, {prompt + most} were requested: {prompt} in the prompt and "
            f"{most} of output. Please shorten the prompt, or ask for less output.", "max_tokens",
        )  # fmt: skip
    return most
