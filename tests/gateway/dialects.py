"""An upstream that answers every dialect with bytes as real servers send them; it has no model.

Each answer has reasoning, text and a call of a tool where its dialect knows such, and usage that is
not what its chunks would suggest. `usage` is what it has counted. Whose `user` (in messages
`metadata.user_id`) is "refused" gets status 400, "failing" an event of error in mid-stream, and of
"dying" the connection is cut there.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fairlane.door.answers import Receive, Scope, Send, as_headers, send_json
from fairlane.gateway.counting import Usage
from fairlane.http_server import HttpServer, in_thread

Json = dict[str, Any]
MODEL = "tiny"
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
TOO_LONG = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "prompt is too long"},
    "request_id": "req_011",
}
_ARGUMENTS = ('{"pla', 'ce": "Ærø', '"}')
_MADE = {"id": "chatcmpl-9", "created": 1_790_000_000, "model": MODEL}
_TOOL_CALL = {"name": "ferry_times", "arguments": ""}


# -- chat ---------------------------------------------------------------------------------------

_CHAT_USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 23,
    "total_tokens": 63,
    "prompt_tokens_details": {"cached_tokens": 32},
    "completion_tokens_details": {"reasoning_tokens": 9},
}


def _chat(body: Json) -> Json:
    message = {
        "role": "assistant", "content": None, "reasoning": "Which island?",
        "tool_calls": [
            {"id": "call_1", "type": "function",
             "function": {"name": "ferry_times", "arguments": "".join(_ARGUMENTS)}}
        ],
    }  # fmt: skip
    choices = [
        {"index": i, "message": message, "finish_reason": "tool_calls", "logprobs": None}
        for i in range(body.get("n", 1))
    ]
    return {**_MADE, "object": "chat.completion", "choices": choices, "usage": _CHAT_USAGE}


def _chat_stream(body: Json) -> Iterator[bytes]:
    call = {"index": 0, "id": "call_1", "type": "function", "function": _TOOL_CALL}
    deltas: list[Json] = [
        {"role": "assistant", "content": ""},
        {"reasoning": "Which "},
        {"reasoning": "island?"},
        {"tool_calls": [call]},
        *({"tool_calls": [{"index": 0, "function": {"arguments": a}}]} for a in _ARGUMENTS),
        {},
    ]
    asked_for_usage = (body.get("stream_options") or {}).get("include_usage")
    more = {"usage": None} if asked_for_usage else {}
    made = {**_MADE, "object": "chat.completion.chunk", **more}
    for delta in deltas:
        for i in range(body.get("n", 1)):
            finish = None if delta else "tool_calls"
            choice = {"index": i, "delta": delta, "finish_reason": finish}
            yield _data({**made, "choices": [choice]})
    if asked_for_usage:
        yield _data({**made, "choices": [], "usage": _CHAT_USAGE})
    yield b"data: [DONE]\n\n"


# -- Anthropic's messages -----------------------------------------------------------------------

_MESSAGE_INPUT = {
    "input_tokens": 9, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 20
}  # fmt: skip
_BLOCKS: list[tuple[Json, list[Json]]] = [
    (
        {"type": "thinking", "thinking": "", "signature": ""},
        [{"type": "thinking_delta", "thinking": "Which island?"},
         {"type": "signature_delta", "signature": "c2ln"}],
    ),
    ({"type": "text", "text": ""}, [{"type": "text_delta", "text": t} for t in ("I ", "look.")]),
    (
        {"type": "tool_use", "id": "toolu_1", "name": "ferry_times", "input": {}},
        [{"type": "input_json_delta", "partial_json": part} for part in ("", *_ARGUMENTS)],
    ),
]  # fmt: skip


def _message(content: list[Json], stop: str | None, output: int) -> Json:
    usage = {**_MESSAGE_INPUT, "output_tokens": output}
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": content,
        "stop_reason": stop, "stop_sequence": None, "usage": usage,
    }  # fmt: skip


def _messages(body: Json) -> Json:
    tool = {"type": "tool_use", "id": "toolu_1", "name": "ferry_times", "input": {"place": "Ærø"}}
    return _message([{"type": "text", "text": "I look."}, tool], "tool_use", 31)


def _messages_stream(body: Json) -> Iterator[bytes]:
    yield _named({"type": "message_start", "message": _message([], None, 1)})
    for index, (block, deltas) in enumerate(_BLOCKS):
        yield _named({"type": "content_block_start", "index": index, "content_block": block})
        yield _named({"type": "ping"})
        for delta in deltas:
            yield _named({"type": "content_block_delta", "index": index, "delta": delta})
        yield _named({"type": "content_block_stop", "index": index})
    for output in (17, 31):  # cumulative
        delta = {"stop_reason": "tool_use", "stop_sequence": None}
        usage = {"output_tokens": output}
        yield _named({"type": "message_delta", "delta": delta, "usage": usage})
    yield _named({"type": "message_stop"})


# -- OpenAI's responses -------------------------------------------------------------------------

_RESPONSE_USAGE = {
    "input_tokens": 50, "input_tokens_details": {"cached_tokens": 48}, "output_tokens": 19,
    "output_tokens_details": {"reasoning_tokens": 8}, "total_tokens": 69,
}  # fmt: skip


def _response(status: str, text: str | None) -> Json:
    part: Json = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": status,
            "content": [part]}  # fmt: skip
    return {
        "id": "resp_1", "object": "response", "created_at": 1_790_000_000, "model": MODEL,
        "status": status, "error": None, "incomplete_details": None, "instructions": None,
        "output": [item] if text else [], "parallel_tool_calls": True, "tool_choice": "auto",
        "tools": [], "usage": _RESPONSE_USAGE if text else None,
    }  # fmt: skip


def _responses(body: Json) -> Json:
    return _response("completed", "At nine.")


def _responses_stream(body: Json) -> Iterator[bytes]:
    at: Json = {"item_id": "msg_1", "output_index": 0}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
    text_at = {**at, "content_index": 0, "logprobs": []}
    events: list[Json] = [
        {"type": "response.created", "response": _response("in_progress", None)},
        {"type": "response.in_progress", "response": _response("in_progress", None)},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.reasoning_summary_text.delta", **at, "summary_index": 0, "delta": "?"},
        *({"type": "response.output_text.delta", **text_at, "delta": t} for t in ("At ", "nine.")),
        {"type": "response.output_text.done", **text_at, "text": "At nine."},
        {"type": "response.completed", "response": _response("completed", "At nine.")},
    ]
    for number, event in enumerate(events):
        yield _named({**event, "sequence_number": number})


# -- what is not streamed -----------------------------------------------------------------------


def _embeddings(body: Json) -> Json:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector = "AACAPwAAAEA=" if body.get("encoding_format") == "base64" else [1.0, 2.0]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i in range(len(texts))]
    usage = {"prompt_tokens": 7 * len(texts), "total_tokens": 7 * len(texts)}
    return {"object": "list", "data": data, "model": MODEL, "usage": usage}


def _models(body: Json) -> Json:
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "us"}]}


# -- serving ------------------------------------------------------------------------------------

_WHOLE = {
    "/v1/chat/completions": (_chat, Usage(40, 32, 23)),
    "/v1/messages": (_messages, Usage(32, 20, 31)),
    "/v1/responses": (_responses, Usage(50, 48, 19)),
    "/v1/embeddings": (_embeddings, Usage(7, 0, 0)),
    "/v1/models": (_models, Usage()),
}
_STREAMED = {
    "/v1/chat/completions": _chat_stream,
    "/v1/messages": _messages_stream,
    "/v1/responses": _responses_stream,
}


class Upstream:
    """See the module. usage: what it counted, all answers together."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.url = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = json.loads(await _read(receive) or b"{}")
        who = body.get("user") or (body.get("metadata") or {}).get("user_id")
        make, usage = _WHOLE.get(scope["path"], (None, Usage()))
        if make is None:
            await send_json(send, {"detail": "Not Found"}, 404)
        elif who == "refused":
            await send_json(send, TOO_LONG, 400)
        elif body.get("stream"):
            start = as_headers({"content-type": "text/event-stream; charset=utf-8"})
            await send({"type": "http.response.start", "status": 200, "headers": start})
            for number, part in enumerate(_STREAMED[scope["path"]](body)):
                if number == 5 and who == "dying":
                    return  # an answer without its end: the server closes the connection
                if number == 5 and who == "failing":
                    await send({"type": "http.response.body", "body": _named(OVERLOADED)})
                    return
                await send({"type": "http.response.body", "body": part, "more_body": True})
            self._count(usage, 1)
            await send({"type": "http.response.body", "body": b""})
        else:
            many = make is _embeddings and isinstance(body["input"], list)
            self._count(usage, len(body["input"]) if many else 1)
            await send_json(send, make(body))

    def _count(self, usage: Usage, times: int) -> None:
        self.usage.input += times * usage.input
        self.usage.cached += times * usage.cached
        self.usage.output += times * usage.output


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _data(value: Json) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _named(value: Json) -> bytes:
    return f"event: {value['type']}\n".encode() + _data(value)


@contextmanager
def upstream() -> Iterator[Upstream]:
    """One that serves while the block runs."""
    one = Upstream()
    with in_thread(lambda ready: HttpServer(one, ready, lifespan="off")) as one.url:
        yield one
