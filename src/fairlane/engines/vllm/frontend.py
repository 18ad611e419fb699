"""The one door between vLLM's API server and its engine, and who may pass it as whom.

Whatever route a request came by, the API server hands it to the engine by a call of
`engine_core.add_request_async`. The door stands there: it writes the client into the request, over
anything that a body or a header may have put in that place, and passes nothing whose sender is
unknown. Who that is, the middleware noted in a context variable; tasks inherit it.

Names of vLLM's API server that are not public, all of them used here alone: the engine client's
`engine_core.add_request_async`, `.abort_requests_async`, `.call_utility_async` (and `_all_`) and
`output_processor.process_outputs`, `.abort_requests`. A server that lacks one does not start.
`engine_core.client_count` says how many API servers there are, and `.client_index` which of them
this is; without them there is one. `.core_engines` lists the engines (ranks of data parallelism),
and `._call_utility_async(..., engine=)` asks one of them; without these there is one.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from fairlane.core.cost import Cost, LinearCost, whole_price
from fairlane.core.errors import FairlaneError
from fairlane.door.admission import Admission, Caller, Refused, Turns
from fairlane.door.door import Door
from fairlane.door.visits import Visit
from fairlane.engines.vllm.clients import label
from fairlane.engines.vllm.prompts import Prompts

log = logging.getLogger("vllm.fairlane")
CALLER: ContextVar[Caller | None] = ContextVar("fairlane_caller", default=None)
_ANSWER_S = 60.0  # how long the engine may take to answer while it starts
_COUNT_EVERY_S = 0.25
_NEEDED = {
    "engine_core": ("add_request_async", "abort_requests_async", "call_utility_async"),
    "output_processor": ("process_outputs", "abort_requests"),
}


class TurnedAway(ValueError):
    """A request that the door does not pass; the middleware answers in the server's place."""


@dataclass(slots=True)
class _Inside:
    client: str
    caller: Caller
    prompt: int = 0
    cached: int = 0  # of it
    output: int = 0


class EngineDoor:
    """Stands before one engine client; see the module.

    by_adapter: from the adapter that a caller without a key asks for to the client; may raise.
    cached_part: how much of a token a prompt token counts that the prefix cache held, 0 to 1.
    cost: by which requests are charged, where that is noted of them.
    """

    def __init__(
        self,
        engine_client: Any,
        admission: Admission,
        turns: Turns,
        by_adapter: Callable[[str | None], str],
        clock: Callable[[], float],
        cached_part: float = 1.0,
        cost: Cost = LinearCost(),  # noqa: B008 - it does not change
    ) -> None:
        for part, names in _NEEDED.items():
            for name in names:
                if not hasattr(getattr(engine_client, part, None), name):
                    raise FairlaneError(
                        f"this vLLM has no {part}.{name}: its front end is none that Fairlane "
                        "guards; see docs/vllm.md for the versions and front ends that it does"
                    )
        self._core = engine_client.engine_core
        self._outputs = engine_client.output_processor
        self._admission = admission
        self._turns = turns
        self._by_adapter = by_adapter
        self._clock = clock
        self._cost = cost
        self._model = _served_name(engine_client)
        self._prompts = Prompts(
            admission.rates, partial(_unread, engine_client), clock, cached_part
        )
        self._inside: dict[str, _Inside] = {}
        self._tokens: dict[str, int] = {}  # delivered, and not yet taken from limits
        self._counted = clock()
        self._add = self._core.add_request_async
        self._abort = self._core.abort_requests_async
        self._process = self._outputs.process_outputs

    def close_in(self) -> None:
        """From now on nothing reaches the engine but through this door."""
        self._core.add_request_async = self.add_request
        self._core.abort_requests_async = self.abort_requests
        self._outputs.process_outputs = self.process_outputs

    # -- in place of the engine client's own -------------------------------------------------

    async def add_request(self, request: Any) -> None:
        """Name the client of a request and pass it, when it is its turn.

        A request that goes on (streamed input) keeps its turn. Raises TurnedAway.
        """
        request_id = str(request.request_id)
        try:
            caller, client = self._client_of(request)
            label(request.sampling_params or request.pooling_params, client)
            if caller.visit is not None:
                caller.visit.model = self._model_of(request)
            inside = self._inside.get(request_id)
            if inside is None and not getattr(request, "abort_immediately", False):
                await self._turns.enter(client)
                inside = self._inside[request_id] = _Inside(client, caller)
            if inside is not None:
                tokens = _prompt_tokens(request)
                inside.prompt += tokens
                self._prompts.take(request_id, client, tokens)
            await self._add(request)
        except BaseException as error:
            self._leave(request_id)
            self._outputs.abort_requests([request_id], True)  # it was noted there before it came
            if isinstance(error, asyncio.CancelledError):
                if request_id in self._prompts:  # it may have got through
                    await self.abort_requests([request_id])
                await self._give_up(CALLER.get())
            else:
                self._prompts.refused(request_id)
            raise

    async def abort_requests(self, request_ids: Sequence[str]) -> None:
        """Let go of aborted requests."""
        for request_id in request_ids:
            self._leave(request_id)
        try:
            await self._abort(request_ids)
        finally:  # the scheduler takes aborts and questions in order: it knows when it is asked
            self._prompts.ended(request_ids)

    def process_outputs(self, outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Count the tokens that were delivered, and let go of requests that are finished.

        Limits learn of tokens when a request ends, and of all others a few times a second: this
        runs at every step of the engine.
        """
        tokens = self._tokens
        for output in outputs:
            inside = self._inside.get(output.request_id)
            if inside is not None:
                if inside.caller.waiting and output.new_token_ids:
                    self._admission.first_token(inside.caller, self._clock())
                elif inside.caller.waiting:
                    self._admission.served(inside.caller)
                if output.request_id in self._prompts:
                    inside.cached = self._prompts.hear(output)
                    _note_first_token(inside.caller, output)
                client = inside.client
                inside.output += len(output.new_token_ids)
                tokens[client] = tokens.get(client, 0) + len(output.new_token_ids)
                if output.finish_reason is not None:
                    self._leave(output.request_id)
                    self._prompts.ended([output.request_id])
        if self._clock() - self._counted > _COUNT_EVERY_S:
            for client in list(tokens):
                self._count(client)
            self._counted = self._clock()
        return self._process(outputs, *args, **kwargs)

    async def _give_up(self, caller: Caller | None) -> None:
        """Abort what else a sender has inside who hangs up while one of its samples waits.

        vLLM aborts samples only once it has handed over all of them.
        """
        samples = [i for i, inside in self._inside.items() if inside.caller is caller]
        if samples:
            self._outputs.abort_requests(samples, True)
            await self.abort_requests(samples)

    def _count(self, client: str) -> None:
        tokens = self._tokens.pop(client, 0)
        if tokens:
            self._admission.rates.take_tokens(client, tokens, self._clock())

    # -- who it is ---------------------------------------------------------------------------

    def _client_of(self, request: Any) -> tuple[Caller, str]:
        caller = CALLER.get()
        if caller is None:
            log.error("a request reached the engine whose sender is unknown; it was turned away")
            raise TurnedAway("the sender of this request is unknown")
        if caller.refused is None and caller.client is None:
            lora = request.lora_request
            try:
                caller.client = self._by_adapter(None if lora is None else str(lora.lora_name))
                self._admission.arrive(caller, self._clock())
            except Refused as refused:
                caller.refused = refused
        if caller.refused is not None or caller.client is None:
            raise TurnedAway(str(caller.refused))
        return caller, caller.client

    def _model_of(self, request: Any) -> str:
        return self._model if request.lora_request is None else str(request.lora_request.lora_name)

    def _leave(self, request_id: str) -> None:
        inside = self._inside.pop(request_id, None)
        if inside is not None:
            self._count(inside.client)
            self._turns.leave(inside.client)
            if inside.caller.visit is not None:
                self._note(inside.caller.visit, request_id, inside)

    def _note(self, visit: Visit, request_id: str, inside: _Inside) -> None:
        """Note what a request had, as far as an API server sees it: a prompt half read is none."""
        if request_id in self._prompts:
            visit.was_served(0, 0, 0, 0.0)
        else:
            told = (inside.prompt, inside.cached, inside.output)
            visit.was_served(*told, whole_price(self._cost, *told))


def _note_first_token(caller: Caller, output: Any) -> None:
    if caller.visit is not None and output.new_token_ids:
        caller.visit.has_token()


def _served_name(engine_client: Any) -> str:
    """What clients call the model, "" where the engine does not say."""
    found = getattr(getattr(engine_client, "model_config", None), "served_model_name", "") or ""
    return str(found if isinstance(found, str) else found[0])


def _prompt_tokens(request: Any) -> int:
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    return 0 if request.prompt_embeds is None else len(request.prompt_embeds)


# -- the scheduler's process ------------------------------------------------------------------


async def ask_engine(
    engine_client: Any, method: str, *args: Any, timeout_s: float | None
) -> list[Any]:
    """Call a method of every scheduler process and give their answers.

    Raises TimeoutError; or what the engine raised, such as for a method that it does not have.
    """
    core = engine_client.engine_core
    call_all = getattr(core, "call_utility_all_async", None)
    async with asyncio.timeout(timeout_s):
        if call_all is not None:
            return list(await call_all(method, *args))
        return [await core.call_utility_async(method, *args)]


async def ask_one(engine_client: Any, engine: Any, method: str, *args: Any) -> Any:
    """Call a method of one engine's scheduler process, one of `engines`. Raises anything."""
    core = engine_client.engine_core
    if engine is None:
        return await core.call_utility_async(method, *args)
    return await core._call_utility_async(method, *args, engine=engine)


def engines(engine_client: Any) -> list[Any]:
    """The engines that this server has, for `ask_one`.

    Raises FairlaneError where there are several, and no way to ask one of them.
    """
    core = engine_client.engine_core
    found = list(getattr(core, "core_engines", ()))
    if len(found) < 2:
        return [None]
    if not hasattr(core, "_call_utility_async"):
        raise FairlaneError(
            "this vLLM has no engine_core._call_utility_async, by which one of several engines is "
            "asked; see docs/vllm.md for the versions that Fairlane knows"
        )
    return found


def api_server(engine_client: Any) -> int:
    """Which of the API servers this is, from 0."""
    return int(getattr(engine_client.engine_core, "client_index", 0))


async def _unread(engine_client: Any, request_ids: list[str]) -> list[list[str] | None]:
    """Which of these requests ended before the engine began to read them, of each scheduler."""
    return await ask_engine(engine_client, "fairlane_unread", request_ids, timeout_s=_ANSWER_S)


def api_servers(engine_client: Any) -> int:
    """How many API servers stand before the engine, this one included."""
    return max(1, int(getattr(engine_client.engine_core, "client_count", 1)))


async def set_weights(engine_client: Any, weights: Mapping[str, float]) -> None:
    """Tell the schedulers what each client weighs. Raises FairlaneError where there are none."""
    try:
        await ask_engine(engine_client, "fairlane_set_weights", dict(weights), timeout_s=_ANSWER_S)
    except Exception as error:
        raise FairlaneError(
            "the scheduler does not answer as Fairlane's does; start the server with "
            f"--scheduler-cls fairlane.engines.vllm.scheduler ({type(error).__name__}: {error})"
        ) from error


class TenantWeights:
    """Tells the schedulers the weights of a file of tenants that has changed, without waiting."""

    def __init__(self, door: Door, engine_client: Any, logger: logging.Logger) -> None:
        self._door, self._engine, self._log = door, engine_client, logger
        self._tasks: set[asyncio.Task[None]] = set()

    def look(self) -> None:
        """Take up a changed file."""
        weights = self._door.look_for_changes()
        if weights is not None:
            task = asyncio.get_running_loop().create_task(self._tell(weights))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _tell(self, weights: Mapping[str, float]) -> None:
        try:
            await set_weights(self._engine, weights)
        except FairlaneError as error:
            self._log.error("the new weights are not in force: %s", error)


def refuse_unguarded_front_ends(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Raise FairlaneError when requests would come in by a way that has no middleware."""
    arguments = sys.argv if arguments is None else arguments
    environment = os.environ if environment is None else environment
    if any(a == "--grpc" or a.startswith(("--grpc=", "--grpc-port")) for a in arguments):
        raise FairlaneError(
            "the gRPC front end passes by the middleware that says who a client is; "
            "leave out --grpc"
        )
    if environment.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
        raise FairlaneError(
            "the Rust front end passes by the middleware that says who a client is; "
            "unset VLLM_USE_RUST_FRONTEND"
        )
