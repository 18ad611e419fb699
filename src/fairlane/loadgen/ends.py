"""How requests end, as their records tell it: outcome, reason, and what came until then."""

import asyncio

import aiohttp

from fairlane.loadgen.errors import AnswerError, excerpt, read_error
from fairlane.loadgen.server import redirected_to
from fairlane.loadgen.stream import Answer
from fairlane.records import RequestRecord
from fairlane.workloads.trace import TracedRequest


def failure(raised: BaseException, timeout_s: float) -> AnswerError:
    """What ended a request before its last token, told alike for all that ended alike."""
    match raised:
        case AnswerError():
            return raised
        case asyncio.CancelledError():
            return AnswerError("interrupted", "")
        case aiohttp.ConnectionTimeoutError():
            return AnswerError("cannot connect", "no answer to the connection")
        case TimeoutError():
            return AnswerError("timeout", f"not finished after {timeout_s:g} s")
        case aiohttp.ClientConnectorError():
            return AnswerError("cannot connect", excerpt(raised))
        case aiohttp.ClientPayloadError():
            return AnswerError("disconnected", "in the stream")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return AnswerError("disconnected", excerpt(raised))
        case _:
            return AnswerError(type(raised).__name__, excerpt(raised))


def refusal(response: aiohttp.ClientResponse, content: bytes) -> AnswerError:
    """What another status than 200 says."""
    code, message, fields = read_error(content)
    kind = str(response.status)
    if code not in ("", kind):
        kind = f"{kind} {code}"
    where = redirected_to(response)
    if where:
        message = f"sends on to {where}: give --server that address"
    message = message or excerpt(response.reason or "")
    if response.status != 429:
        return AnswerError(kind, message, fields=fields)
    wait = response.headers.get("Retry-After")
    message += f"; retry after {excerpt(wait)}" if wait else ""
    return AnswerError(kind, message, outcome="rejected")


def record(
    request: TracedRequest, answer: Answer, start: float, error: AnswerError | None
) -> RequestRecord:
    """What the client of a request saw; times count from when it was to be sent."""
    times = [round(t - start - request.arrival_s, 6) for t in answer.times_s()]
    counted = answer.prompt_tokens
    prompt_len = request.prompt_len if counted is None else counted
    output_len = answer.tokens if times else request.output_len
    outcome, reason = "finished", ""
    if error is not None:
        outcome = error.outcome
        reason = f"{error.kind}: {error.detail}" if error.detail else error.kind
    return RequestRecord(
        id=request.id,
        client=request.client,
        arrival_s=request.arrival_s,
        prompt_len=prompt_len,
        output_len=output_len,
        ttft_s=times[0] if times else None,
        latency_s=times[-1] if times else None,
        outcome=outcome,
        reason=reason,
        asked_prompt_len=request.prompt_len if request.prompt_len != prompt_len else None,
        asked_output_len=request.output_len if request.output_len != output_len else None,
        token_times_s=times or None,
    )
