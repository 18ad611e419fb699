"""A suite or a trace sent to a real server: the same records and metrics as from the simulator."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fairlane
from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.options import NotNegative, Positive, Whole
from fairlane.experiments.runs import Range, client_values
from fairlane.experiments.settings import Settings
from fairlane.experiments.traces import about_trace, notes_on_trace, read_requests, scaled_requests
from fairlane.experiments.weights import Weights, describe_weights
from fairlane.files import OutputError
from fairlane.loadgen.clients import Identity, identities
from fairlane.loadgen.errors import OMITTABLE, PROMPT
from fairlane.loadgen.health import bottleneck
from fairlane.loadgen.prompts import token_prompts
from fairlane.loadgen.send import OpenLoop, Progress, Sent
from fairlane.loadgen.server import Server, open_session
from fairlane.metrics import headline, summarise
from fairlane.records import RequestRecord, Run, write_jsonl
from fairlane.validation import checked
from fairlane.workloads.suites import get_suite
from fairlane.workloads.trace import TracedRequest

PROMPTS = ("tokens", "words")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What one measurement is made of.

    server: its address. suite, trace, duration, workload_seed: as in `Settings`. rate_scale:
    times the rate; a suite's duration and silent windows stay, a trace is sent in so much less
    time. time_scale: then everything takes so many times as long. model: the server's first by
    default. clients: a clients file. client_model: the model of each client, with `{client}` in
    it. prompts: a name in PROMPTS, drawn by `seed`. omit: fields that requests leave out, names in
    OMITTABLE. weights, cost: what clients are entitled to and what tokens are worth, for the
    metrics alone. timeout_s, drain_s: as in `OpenLoop`.
    """

    server: str
    suite: str
    trace: str | None = None
    duration: Positive | None = None
    rate_scale: Positive = 1.0
    time_scale: Positive = 1.0
    model: str | None = None
    clients: str | None = None
    client_model: str | None = None
    prompts: str = "tokens"
    omit: tuple[str, ...] = ()
    weights: Weights = ()
    cost: str = "linear"
    timeout_s: Positive = 3600.0
    drain_s: NotNegative = 30.0
    seed: Whole = 0
    workload_seed: Whole = 42

    def __post_init__(self) -> None:
        checked(BenchSettings, asdict(self))
        if self.prompts not in PROMPTS:
            raise UnknownNameError("kind of prompts", self.prompts, PROMPTS)
        for name in self.omit:
            if name not in OMITTABLE:
                raise UnknownNameError("field to omit", name, OMITTABLE)

    def requests(self) -> list[TracedRequest]:
        """The workload, at the times at which it is sent."""
        suite = get_suite(self.suite)
        trace = read_requests(self.trace).requests if self.trace is not None else None
        requests = scaled_requests(suite, self.rate_scale, self.workload_seed, self.duration, trace)
        if not requests:
            raise FairlaneError("nothing to send: the workload has no requests in this duration")
        slower = self.time_scale
        return [replace(request, arrival_s=request.arrival_s * slower) for request in requests]

    def described(self, requests: list[TracedRequest]) -> dict[str, Any]:
        """These settings for a manifest: weights by client, and what the trace's clock was."""
        trace = read_requests(self.trace) if self.trace is not None else None
        weights = self.pricing().client_weights(requests)
        return {**asdict(self), "weights": weights, **about_trace(trace)}

    def notes(self, weights: Mapping[str, float]) -> list[str]:
        """What is to be said at the start."""
        trace = read_requests(self.trace) if self.trace is not None else None
        said = [describe_weights(weights)] if weights else []
        return said if trace is None else [*said, *notes_on_trace(trace)]

    def pricing(self) -> Settings:
        """The settings that turn weights and cost into metrics."""
        return Settings(suite=self.suite, scheduler="fcfs", weights=self.weights, cost=self.cost)


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What a measurement gave. metrics, clients: as of `Report`, empty where nothing was sent.

    sent: what became of the requests. warnings: why the numbers may not be what they seem.
    """

    run: Run
    sent: Sent
    warnings: list[str]
    metrics: dict[str, Range]
    clients: dict[str, dict[str, Range]]

    @property
    def finished(self) -> int:
        """How many requests finished; where none did, nothing was measured."""
        return sum(record.outcome == "finished" for record in self.run.records)


def bench(
    settings: BenchSettings,
    *,
    output: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> BenchReport:
    """Send the workload; write one row per request, as JSON Lines, and a manifest beside them.

    say: is told, before anything is sent, whose weight is whose and where a trace begins.

    Ctrl-C or SIGTERM stops sending and lets what is under way end, for at most `drain_s`; a second
    one ends it at once. Both write what there is. Where SIGINT was ignored from the start, as in
    the background of a script, it still is. Raises FairlaneError for settings, files or a server
    that do not work, before anything is sent.
    """
    requests = settings.requests()
    weights = settings.pricing().client_weights(requests)
    cost = settings.pricing().cost_function()
    _check_writable(output)
    if say is not None:
        for note in settings.notes(weights):
            say(note)
    run, sent = asyncio.run(_measure(settings, requests, output, progress))
    if not run.records:
        return BenchReport(run, sent, [], {}, {})
    summaries = summarise(run.records, cost=cost, weights=weights)
    return BenchReport(
        run=run,
        sent=sent,
        warnings=list(_warnings(settings, run, sent)),
        metrics={name: Range.of([value]) for name, value in headline(run).items()},
        clients={
            summary.client: {n: Range.of([v]) for n, v in client_values(summary).items()}
            for summary in summaries
        },
    )


def _check_writable(output: Path | None) -> None:
    """Raise OutputError now rather than after the measurement."""
    if output is None:
        return
    if output.suffix != ".jsonl":
        raise OutputError(f"{output}: results are JSON Lines; choose a name that ends in .jsonl")
    folder = next(parent for parent in output.resolve().parents if parent.exists())
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"{output}: cannot be written; choose another output")


async def _measure(
    settings: BenchSettings,
    requests: list[TracedRequest],
    output: Path | None,
    progress: Callable[[Progress], None] | None,
) -> tuple[Run, Sent]:
    """Ask the server what has to be known, send, write."""
    server = Server.at(settings.server)
    clients = _identities(settings, requests)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    async with open_session() as http:
        first = clients[requests[0].client]
        model = await server.model(http, first.headers, settings.model)
        clients = {name: replace(one, model=one.model or model) for name, one in clients.items()}
        prompt = token_prompts(settings.seed)
        if settings.prompts == "words":
            prompt = await server.words(http, clients[requests[0].client])
            prompt(min(requests, key=lambda request: request.prompt_len))  # raises if too short
        loop = OpenLoop(
            server, requests, clients, prompt,
            timeout_s=settings.timeout_s, drain_s=settings.drain_s, omit=settings.omit,
            progress=progress,
        )  # fmt: skip
        with _interrupts(loop.interrupt):
            sent = await loop.run(http)
            about = {"source": "bench", "fairlane": fairlane.__version__, "started_at": started}
            manifest = {**settings.described(requests), **about, "model": model, **_outcome(sent)}
            manifest["client"] = {**_rates(sent), **loop.health.report()}
            run = Run(manifest, sent.records, sent.total_time_s)
            if output is not None:
                write_jsonl(output, run)
    return run, sent


def _identities(settings: BenchSettings, requests: list[TracedRequest]) -> dict[str, Identity]:
    found = identities(
        (request.client for request in requests),
        model=settings.model,
        file=Path(settings.clients) if settings.clients is not None else None,
        client_model=settings.client_model,
    )
    for client, identity in found.items():
        if "user" in settings.omit and identity.user != client:
            raise FairlaneError(
                f"{settings.clients}: gives client {client} a user, which --omit user leaves out; "
                "choose one"
            )
    return found


@contextmanager
def _interrupts(interrupt: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `interrupt`; elsewhere than in the main thread they do as before."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before.get(signal.SIGINT) is signal.SIG_IGN:  # Ctrl-C is meant for another process
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, lambda *_: interrupt())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(sent: Sent) -> dict[str, Any]:
    return {
        "failures": dict(sent.failures),
        "unsent": sent.unsent,
        "interrupted": sent.interrupted,
    }


def _rates(sent: Sent) -> dict[str, float]:
    """Requests per second from the start to the last one: when it was due, and when it left."""
    count = len(sent.records)
    due = sent.records[-1].arrival_s if count else 0.0
    return {
        "intended_rate": count / due if due > 0 else 0.0,
        "achieved_rate": count / sent.last_sent_s if sent.last_sent_s > 0 else 0.0,
    }


def _warnings(settings: BenchSettings, run: Run, sent: Sent) -> Iterator[str]:
    limit = bottleneck(run.manifest["client"])
    if limit is not None:
        yield limit
    for name, count in sent.complaints.most_common():
        yield f"the server complains of {name} in {count} answers{_help(settings, name)}"
    finished = [record for record in run.records if record.outcome == "finished"]
    of = f"of {len(finished)} answers"
    prompts = sum(record.asked_prompt_len is not None for record in finished)
    outputs = sum(record.asked_output_len is not None for record in finished)
    if prompts:
        yield f"the server counts other prompt lengths than asked for in {prompts} {of}"
    if outputs:
        left_out = " and ".join(n for n in ("ignore_eos", "min_tokens") if n in settings.omit)
        why = f"nothing forces it without {left_out}" if left_out else "is ignore_eos unknown?"
        yield f"{outputs} {of} have another length than asked for: {why}"
    if sent.uncounted:
        yield f"{sent.uncounted} {of} came without usage: tokens were counted by chunks"
    yield from _coarse(finished)


def _help(settings: BenchSettings, name: str) -> str:
    """What to do about a field that the server does not take; "" where nothing is known."""
    if name == PROMPT:
        return ": --prompts words sends text" if settings.prompts == "tokens" else ""
    return "" if name in settings.omit else f": --omit {name} leaves it out"


def _coarse(finished: list[RequestRecord]) -> Iterator[str]:
    """Where chunks are no tokens, and their times not the tokens'."""
    counts = [(record.output_len, len(record.token_times_s or ())) for record in finished]
    tokens, chunks = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    if tokens > 1.05 * chunks:
        yield f"the server sends {tokens / chunks:.2g} tokens a chunk: their times are as coarse"
    fewer = sum(count < came for count, came in counts)
    if fewer:
        yield (
            f"the server counts fewer tokens than chunks came with text in {fewer} of "
            f"{len(finished)} answers: one of both is wrong, or its chunks are no tokens"
        )
