"""What a server says went wrong: errors in every shape that OpenAI-compatible servers give them.

`{"error": {"message", "type", "param", "code"}}` is OpenAI's; `{"object": "error", "message"}` is
that of older vLLM, SGLang and TensorRT-LLM, `{"error": "..."}` that of TGI and Ollama, and
`{"detail": ...}` FastAPI's, whose validation names the fields that it does not take.
"""

import json
import re
from typing import Any, NamedTuple

MALFORMED = "malformed stream"
PROMPT = "prompt"
# Fields of a request that not every server takes; the names of `--omit`.
OMITTABLE = ("ignore_eos", "min_tokens", "stream_options", "temperature", "user")


class AnswerError(Exception):
    """An answer that is refused, broken off or cannot be understood.

    kind: of failure, the same for all that failed alike. detail: what was said of this one.
    fields: what the server complained of, names in OMITTABLE or PROMPT.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        outcome: str = "aborted",
        fields: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.outcome = outcome
        self.kind = kind
        self.detail = detail
        self.fields = fields


class Complaint(NamedTuple):
    """An error as its server told it. fields: those of the request that it names, as of above."""

    code: str
    message: str
    fields: tuple[str, ...] = ()


def is_error(said: Any) -> bool:
    """Whether this is an error, and no chunk of a completion."""
    if not isinstance(said, dict):
        return False
    if said.get("error") or said.get("object") == "error":
        return True
    bare = "choices" not in said and "usage" not in said
    return bare and any(said.get(name) for name in ("message", "detail", "error_code"))


def read_error(body: bytes) -> Complaint:
    """What an error says; of a body in none of the known shapes, its beginning."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return Complaint("", excerpt(body), _fields(body.decode(errors="replace")))
    message = _message(said)
    return Complaint(_code(said), excerpt(message or body), _fields(message))


def _message(said: Any) -> str:
    """The words of an error, the field that it complains of among them; "" where it has none."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        return "; ".join(filter(None, map(_message, said)))
    if not isinstance(said, dict):
        return ""
    names = ("error", "message", "detail", "msg", "errors")
    message = next(filter(None, (_message(said.get(name)) for name in names)), "")
    where = said.get("loc") or said.get("param")
    field = ".".join(map(str, where)) if isinstance(where, list) else where
    if message and isinstance(field, str) and field not in message:
        return f"{field}: {message}"
    return message


def _code(said: Any) -> str:
    """A word for the kind of error, where there is one; else its number."""
    if isinstance(said, list) and said:
        said = said[0]  # as Gemini wraps them
    if not isinstance(said, dict):
        return ""
    inside = said["error"] if isinstance(said.get("error"), dict) else said
    told = [inside.get(name) for name in ("code", "type", "error_type", "error_code")]
    words = [code for code in told if isinstance(code, str) and code and not code.isdigit()]
    numbers = [str(code) for code in told if isinstance(code, int | str) and code]
    return excerpt((words + numbers or [""])[0])


_OMITTABLE = re.compile(
    r"\b(ignore_eos|min_tokens|stream_options|temperature)\b|(?:['\"`.]|: )(user)\b"
)
_PROMPT = re.compile(r"(?:['\"`.]|^)prompt\b")


def _fields(message: str) -> tuple[str, ...]:
    """The fields of the request that a message complains of.

    What follows "expected" are those that the server does take. A prompt is only complained of
    for its type: of its length nothing helps.
    """
    complaint, _, _ = message.partition("expected")
    named = {name for found in _OMITTABLE.findall(complaint) for name in found if name}
    if _PROMPT.search(complaint) and re.search(r"\bstr(ing)?\b", message):
        named.add(PROMPT)
    return tuple(sorted(named))


def excerpt(said: object, limit: int = 160) -> str:
    """The beginning of what a server said, as one printable line."""
    text = said[: 4 * limit].decode(errors="replace") if isinstance(said, bytes) else str(said)
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text[: 4 * limit].split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."
