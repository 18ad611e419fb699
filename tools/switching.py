"""One vLLM server that changes its scheduler while it stands idle, for measurements.

    PYTHONPATH=tools vllm serve MODEL --scheduler-cls switching.scheduler \
        --middleware switching.Switch

Two servers of the same kind differ by a few percent (which memory, which cores), and more than
the schedulers that are to be compared. Here the process, its memory and its compiled graphs stay;
only the scheduler object, and with it the middleware's part, is another one. `POST /switch` with a
JSON object does it, and answers 409 while requests are under way:

    {"name": "vtc", "scheduler": {"name": "vtc"}, "blocks": 2188, "running": 64, "log": "full"}

scheduler: the table [scheduler] of a configuration, or null for vLLM as it comes, which then has
no middleware either. One is known beside Fairlane's: `max-tokens-oracle`, VTC that is told each
request's output length, which in a benchmark is the limit it asks for. blocks: so many blocks of
the KV cache are used, or null for all. running: at most so many requests run, or null. log:
"times", "full" or null; the answer then tells of the steps since the last switch, and "full" writes
them to `label`.steps.jsonl in the folder SWITCH_LOGS, one object a step: when schedule() and
update_from_output() began and ended, in seconds of one clock, and what was in the batch.

For measurements alone: whoever reaches the port can switch.
"""

import asyncio
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import tomlkit
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

from fairlane.engines.vllm.middleware import Identity
from fairlane.engines.vllm.scheduling import make_scheduler
from fairlane.policies import registry
from fairlane.policies.vtc import vtc_oracle

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DOOR = {
    "engine_core": ("add_request_async", "abort_requests_async"),
    "output_processor": ("process_outputs",),
}


# -- the engine's process ---------------------------------------------------------------------


def max_tokens_oracle(**options: Any) -> Any:
    """Predicted VTC that takes a request's limit for its length."""
    return vtc_oracle(true_length=lambda request: request.max_output_tokens or 0, **options)


_oracle = registry.PolicySpec("max-tokens-oracle", max_tokens_oracle, "VTC told the lengths")
registry._specs()[_oracle.name] = _oracle


class Steps:
    """Times each step of a scheduler and, in full, notes its batch."""

    def __init__(self, scheduler: Any, full: bool) -> None:
        self.rows: list[dict[str, Any]] = []
        self._full = full
        self._scheduler = scheduler
        self._schedule = scheduler.schedule
        self._update = scheduler.update_from_output
        self._numbers: dict[int, int] = {}
        scheduler.schedule = self.schedule
        scheduler.update_from_output = self.update

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """In place of the scheduler's own."""
        begin = time.perf_counter()
        batch = self._schedule(*args, **kwargs)
        row: dict[str, Any] = {"step": len(self.rows), "s0": begin, "s1": time.perf_counter()}
        self._numbers[id(batch)] = len(self.rows)
        self.rows.append(row | (self._batch(batch) if self._full else {}))
        return batch

    def update(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """In place of the scheduler's own."""
        begin = time.perf_counter()
        outputs = self._update(batch, *args, **kwargs)
        self.rows[self._numbers.pop(id(batch))] |= {"u0": begin, "u1": time.perf_counter()}
        return outputs

    def _batch(self, batch: Any) -> dict[str, Any]:
        chosen = batch.num_scheduled_tokens
        chunks = [[r.num_computed_tokens, chosen[r.req_id]] for r in batch.scheduled_new_reqs]
        cached = batch.scheduled_cached_reqs
        decodes = context = 0
        for request_id, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            if chosen[request_id] == 1:
                decodes += 1
                context += computed
            else:
                chunks.append([computed, chosen[request_id]])
        return {
            "running": len(self._scheduler.running),
            "waiting": len(self._scheduler.waiting),
            "prefill": chunks,
            "decode": decodes,
            "ctx": context,
            "preempted": len(getattr(batch, "preempted_req_ids", None) or ()),
        }

    def summary(self) -> dict[str, Any]:
        """Milliseconds of schedule() and update_from_output() in steps that ended."""
        done = [row for row in self.rows if "u1" in row]
        if not done:
            return {"steps": 0}
        choose = [1000 * (row["s1"] - row["s0"]) for row in done]
        update = [1000 * (row["u1"] - row["u0"]) for row in done]
        return {
            "steps": len(done),
            "schedule_ms": round(statistics.fmean(choose), 4),
            "update_ms": round(statistics.fmean(update), 4),
            "scheduler_p50_ms": round(
                statistics.median(a + b for a, b in zip(choose, update, strict=True)), 4
            ),
            "span_s": round(done[-1]["u1"] - done[0]["s0"], 4),
        }


_made: dict[str, Any] = {}  # what vLLM's first call of `scheduler` came with
_steps: Steps | None = None
_label = "start"


def scheduler(**given: Any) -> Any:
    """The stock scheduler to begin with; for `--scheduler-cls`."""
    _made.update(given)
    return _build({"scheduler": None})


def _build(mode: dict[str, Any]) -> Any:
    given = dict(_made)
    config = given["vllm_config"]
    whole = given["kv_cache_config"]
    blocks = mode.get("blocks") or whole.num_blocks
    if blocks > whole.num_blocks:
        raise ValueError(f"{blocks} blocks are asked for, and there are {whole.num_blocks}")
    given["kv_cache_config"] = dataclasses.replace(whole, num_blocks=blocks)
    config.cache_config.num_gpu_blocks = blocks
    _made.setdefault("running", config.scheduler_config.max_num_seqs)
    given.pop("running", None)
    config.scheduler_config.max_num_seqs = mode.get("running") or _made["running"]
    if mode["scheduler"] is None:
        kind = AsyncScheduler if config.scheduler_config.async_scheduling else Scheduler
        return kind(**given)
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        tomlkit.dump({"scheduler": mode["scheduler"]}, file)
        file.flush()
        os.environ["FAIRLANE_CONFIG"] = file.name
        return make_scheduler(**given)


def _switch(core: Any, mode: dict[str, Any]) -> dict[str, Any] | None:
    """Reached by call_utility_async("switch", mode); None while requests are under way."""
    global _steps, _label
    if core.scheduler.has_requests() or core.batch_queue:
        return None
    before: dict[str, Any] = {}
    if _steps is not None:
        before = _steps.summary()
        if _steps._full:
            path = Path(os.environ.get("SWITCH_LOGS", ".")) / f"{_label}.steps.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in _steps.rows))
    found = getattr(core.scheduler, "fairlane_snapshot", None)
    audit = {} if found is None else found()
    before |= {key: audit[key] for key in ("observed_difference", "bound") if key in audit}
    core.scheduler = _build(mode)
    _label = mode.get("label") or mode["name"]
    _steps = Steps(core.scheduler, mode["log"] == "full") if mode.get("log") else None
    return before


EngineCore.switch = _switch


# -- the API servers' processes ---------------------------------------------------------------


class Switch:
    """The middleware: Fairlane's, where the mode is one of Fairlane's; else nothing."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._fair = Identity(app)
        self._file = Path(os.environ["SWITCH_FILE"])  # what all API servers go by
        self._seen = 0.0
        self._is_fair = False
        self._engine: Any = None
        self._plain: dict[tuple[str, str], Any] = {}
        self._guarded: dict[tuple[str, str], Any] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            self._engine = scope["app"].state.engine_client
            self._plain = self._door()
            await self._fair(scope, receive, send)
            return
        self._look()
        if scope["type"] == "http" and scope["path"] == "/switch":
            await self._switch(receive, send)
            return
        await (self._fair if self._is_fair else self._app)(scope, receive, send)

    def _door(self) -> dict[tuple[str, str], Any]:
        return {
            (part, name): getattr(getattr(self._engine, part), name)
            for part, names in DOOR.items()
            for name in names
        }

    def _look(self) -> None:
        """Open or close the door when the mode has changed."""
        if not self._guarded:  # the first request: the server has started
            self._guarded = self._door()
        stamp = self._file.stat().st_mtime if self._file.exists() else 0.0
        if stamp == self._seen and self._seen:
            return
        self._seen = stamp
        self._is_fair = self._file.exists() and self._file.read_text() == "fair"
        for (part, name), value in (self._guarded if self._is_fair else self._plain).items():
            setattr(getattr(self._engine, part), name, value)

    async def _switch(self, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        mode = json.loads(body)
        before = None
        for _ in range(3000):  # the last step of the last request may be under way
            before = await self._engine.engine_core.call_utility_async("switch", mode)
            if before is not None:
                break
            await asyncio.sleep(0.01)
        if before is not None:
            self._file.write_text("plain" if mode["scheduler"] is None else "fair")
            self._look()
        status = 409 if before is None else 200
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(before).encode()})
