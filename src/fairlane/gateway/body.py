"""What a request asks for, read from its body; and the one change that is made to it.

The body goes on as it came, byte for byte. Only a stream whose client did not ask for usage gets
`"stream_options": {"include_usage": true}`, since engines count tokens better than chunks do; that
is put between its bytes. A name that stands twice is refused: we and the engine might each believe
another one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from json.decoder import JSONDecoder
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.core.options import NotNegative, Whole
from fairlane.gateway.forms import FORM, FormError, fields_of


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_DECODER = JSONDecoder(parse_constant=_no_number)
_PAIRS = JSONDecoder(object_pairs_hook=list)
_TRUE = frozenset({"true", "1", "t", "y", "yes", "on"})  # in a form
_BLANKS = " \t\n\r"
_BEGIN = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*(\}?)")
_NAME = re.compile(r'[ \t\n\r]*"((?:[^"\\\x00-\x1f]|\\.)*)"[ \t\n\r]*:[ \t\n\r]*')
_NEXT = re.compile(r"[ \t\n\r]*([,}])")
# Fields that let tokens pass uncounted, and what alone is taken for them.
_UNCOUNTED = {"stream_interval": 1, "background": False}
LONGEST_MODEL = 512
MOST_SAMPLES = 4096
_MOST_TOKENS = 10**9  # of an answer: no engine makes more, whatever is asked for
_BEGINNING = 256  # characters
_TEXT = ("prompt", "messages", "input", "system", "instructions", "tools", "query", "documents")
_A_MESSAGE = 12  # characters, as what stands around one in the prompt is about four tokens


class BodyError(FairlaneError):
    """A body that is not passed on: the message says why."""


class Dialect(Enum):
    """Whose API a route is of, as far as counting goes."""

    OPENAI = "openai"  # completions and chat
    RESPONSES = "responses"  # OpenAI's newer one
    MESSAGES = "messages"  # Anthropic's
    PLAIN = "plain"  # no output that is text: embeddings, rerank, score
    MEDIA = "media"  # audio and images: often without tokens


@dataclass(frozen=True, slots=True)
class Price:
    """What a request without tokens counts, in input tokens. second: of audio, where it is told."""

    request: Whole = 0
    second: NotNegative = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """A route that is passed on."""

    dialect: Dialect
    price: Price = field(default_factory=Price)


ROUTES: Mapping[str, Route] = {
    "/v1/chat/completions": Route(Dialect.OPENAI),
    "/v1/completions": Route(Dialect.OPENAI),
    "/v1/responses": Route(Dialect.RESPONSES),
    "/v1/messages": Route(Dialect.MESSAGES),
    "/v1/embeddings": Route(Dialect.PLAIN),
    "/v1/rerank": Route(Dialect.PLAIN),
    "/v1/score": Route(Dialect.PLAIN),
    "/v1/audio/speech": Route(Dialect.MEDIA),
    "/v1/audio/transcriptions": Route(Dialect.MEDIA, Price(second=50.0)),
    "/v1/audio/translations": Route(Dialect.MEDIA, Price(second=50.0)),
    "/v1/images/generations": Route(Dialect.MEDIA, Price(request=1000)),
    "/v1/images/edits": Route(Dialect.MEDIA, Price(request=1000)),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for.

    content: the bytes for the engine. hides_usage: the client did not ask for any. samples: answers
    asked for. max_tokens: of each, None where it is not said; 0 where there is no text in it.
    characters: of the text that becomes the prompt; tokens: of it that is tokens already. session:
    what the client calls what belongs together; beginning: of the prompt, as it is written. kind:
    the content type as which it was read.
    """

    model: str
    stream: bool
    samples: int
    max_tokens: int | None
    characters: int
    tokens: int
    content: bytes
    hides_usage: bool = False
    session: str | None = None
    beginning: str = ""
    kind: bytes = b"application/json"

    @property
    def most(self) -> int | None:
        """Output tokens at most, None where it is not said."""
        return None if self.max_tokens is None else self.max_tokens * self.samples


def read_body(route: Route, content: bytes, content_type: bytes = b"") -> Asked:
    """Read a body. Raises BodyError for one that is no JSON object with a model, nor a form."""
    if route.dialect is Dialect.MEDIA and content_type.lower().startswith(FORM):
        return _read_form(route, content, content_type)
    try:
        text = content.decode()
        members = {name: (value, begin, end) for name, value, begin, end in _members(text)}
    except UnicodeDecodeError:
        raise BodyError("the body is not JSON in UTF-8") from None
    except RecursionError:
        raise BodyError("the body is nested too deeply") from None
    asked = {name: value for name, (value, _, _) in members.items()}
    for name, harmless in _UNCOUNTED.items():
        if asked.get(name) not in (None, harmless):
            raise BodyError(f"{name} is not served here; leave it out")
    samples = _samples(asked)
    session = asked.get("prompt_cache_key")
    found = Asked(
        model=_model(asked.get("model")),
        stream=_flag(asked, "stream") and route.dialect is not Dialect.PLAIN,
        samples=samples,
        max_tokens=0 if route.dialect is Dialect.PLAIN else _most(asked),
        characters=sum(_characters(asked[name]) for name in _TEXT if name in asked),
        tokens=_tokens(asked.get("prompt", asked.get("input"))) + samples * route.price.request,
        content=content,
        session=session if isinstance(session, str) else None,
        beginning=_beginning(text, members),
    )
    if route.dialect is Dialect.OPENAI and found.stream:
        return _asking_for_usage(found, text, members.get("stream_options"))
    return found


def _read_form(route: Route, content: bytes, content_type: bytes) -> Asked:
    """A form with a file: its bytes count as the text of its prompt."""
    try:
        fields = fields_of(content_type, content)
    except FormError as error:
        raise BodyError(str(error)) from None
    n = fields.get("n", "1")[:20]
    samples = _checked_samples(int(n) if n.isdecimal() else 1)
    return Asked(
        model=_model(fields.get("model")),
        stream=fields.get("stream", "").strip().lower() in _TRUE,
        samples=samples,
        max_tokens=None,
        characters=len(content),
        tokens=samples * route.price.request,
        content=content,
        kind=content_type,
    )


def _flag(asked: dict[str, Any], name: str) -> bool:
    """A truth value; engines would take 1 and "true" for one, too."""
    value = asked.get(name)
    if value is not None and not isinstance(value, bool):
        raise BodyError(f"{name} must be true or false")
    return value is True


def _model(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_MODEL:
        raise BodyError("model must be the name of a model; GET /v1/models lists them")
    return name


def _beginning(text: str, members: Mapping[str, tuple[Any, int, int]]) -> str:
    """Of the prompt, as it is written: requests that share it may share a prefix in the cache."""
    found = ""
    for name in ("system", "instructions", "messages", "prompt", "input"):
        if name in members and len(found) < _BEGINNING:
            _, begin, end = members[name]
            found += text[begin : min(end, begin + _BEGINNING)]
    return found[:_BEGINNING]


def _members(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Name, value, and where the value begins and ends, of each member of a JSON object."""
    seen: set[str] = set()
    found = _BEGIN.match(text)
    if found is None:
        raise BodyError("the body must be a JSON object")
    at, more = found.end(), not found[1]
    while more:
        found = _NAME.match(text, at)
        if found is None:
            raise BodyError("the body is not JSON")
        name = found[1] if "\\" not in found[1] else _value(text, found.start(1) - 1)[0]
        if name in seen:
            raise BodyError(f"{name[:40]!r} stands twice in the body")
        seen.add(name)
        begin = found.end()
        value, end = _value(text, begin)
        yield name, value, begin, end
        found = _NEXT.match(text, end)
        if found is None:
            raise BodyError("the body is not JSON")
        at, more = found.end(), found[1] == ","
    if _skip(text, at) != len(text):
        raise BodyError("the body is not JSON: something follows it")


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except ValueError as error:
        raise BodyError(f"the body is not JSON: {error}") from None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _asking_for_usage(asked: Asked, text: str, options: tuple[Any, int, int] | None) -> Asked:
    value, begin, end = options or (None, 0, 0)
    if value is not None and not isinstance(value, dict):
        raise BodyError("stream_options must be an object")
    if value and len(_PAIRS.raw_decode(text, begin)[0]) > len(value):
        raise BodyError("a name stands twice in stream_options")
    if value and value.get("include_usage") is True:
        return asked
    wanted = json.dumps({**(value or {}), "include_usage": True})
    if options is None:
        at = text.index("{") + 1
        comma = "" if text[_skip(text, at)] == "}" else ","
        text = f'{text[:at]}"stream_options":{wanted}{comma}{text[at:]}'
    else:
        text = text[:begin] + wanted + text[end:]
    return replace(asked, content=text.encode(), hides_usage=True)


def _characters(value: Any) -> int:
    """Of all texts in a value; each object counts for what a template writes around it."""
    found, todo = 0, [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            found += len(one)
        elif isinstance(one, list):
            todo += one
        elif isinstance(one, dict):
            found += _A_MESSAGE
            todo += [inner for name, inner in one.items() if name not in ("role", "type")]
    return found


def _tokens(value: Any) -> int:
    """Token ids in a prompt, or in several."""
    if not isinstance(value, list):
        return 0
    lists = [one for one in value if isinstance(one, list)] or [value]
    return sum(len(one) for one in lists if one and isinstance(one[0], int))


def _samples(asked: dict[str, Any]) -> int:
    """Answers that the engine makes, also those of which it keeps the best to itself."""
    found = max(n if type(n) is int else 1 for n in (1, asked.get("n"), asked.get("best_of")))
    return _checked_samples(found)


def _checked_samples(samples: int) -> int:
    if samples > MOST_SAMPLES:
        raise BodyError(f"n and best_of may be {MOST_SAMPLES:,} at most")
    return samples


def _most(asked: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        most = asked.get(name)
        if type(most) is int and most > 0:
            return min(most, _MOST_TOKENS)
    return None
