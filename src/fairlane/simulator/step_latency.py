"""How long a step of a vLLM server takes: a model of its GPU, its engine and its API server.

The GPU works through the linear layers (by requests where all decode, by tokens where a prompt is
among them) and through attention (by what it has to look at). The engine needs time per step and
per request. A step of decodes is launched at once, as one CUDA graph. One with prompts is launched
in pieces, and one too large for graphs kernel by kernel, which keeps the engine for longer than
most steps take on the GPU, and for more or less long, as its CPU is faster or slower.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import NamedTuple

from fairlane.simulator.profile_file import VllmFile

Points = Sequence[Sequence[float]]


class StepSize(NamedTuple):
    """What a step works on.

    decodes: requests that compute one token, after `context` tokens in all. prefill: tokens of
    prompts, and `attention`: for each piece of a prompt its end squared minus its begin squared.
    """

    decodes: int
    context: int = 0
    prefill: int = 0
    attention: int = 0


@dataclass(frozen=True, slots=True)
class StepLatency:
    """Times in seconds. decode, mixed: (requests or tokens, seconds) points, lines in between.

    graph_s: what launching a decode takes beyond; pieces_s, eager_s: the least and the most that
    launching in pieces takes, and launching a step of more than `graph_tokens`. hand_out_s: what
    the API server takes for each token. reply_s: from there to the client.
    """

    decode: Points
    mixed: Points
    per_context_token: float
    per_attention: float
    schedule_s: float
    schedule_per_request: float
    graph_tokens: int
    graph_s: float
    pieces_s: tuple[float, float]
    eager_s: tuple[float, float]
    update_s: float
    update_per_request: float
    hand_out_s: float
    reply_s: float

    def on_card(self, slowness: float) -> "StepLatency":
        """On a GPU that takes so many times as long: cards of one kind differ by some percent."""
        return replace(
            self,
            decode=[(x, slowness * s) for x, s in self.decode],
            mixed=[(x, slowness * s) for x, s in self.mixed],
            per_context_token=slowness * self.per_context_token,
            per_attention=slowness * self.per_attention,
        )

    def on_host(self, slowness: float) -> "StepLatency":
        """Where launching steps with prompts takes so many times as long: CPUs are shared."""
        return replace(
            self,
            pieces_s=(slowness * self.pieces_s[0], slowness * self.pieces_s[1]),
            eager_s=(slowness * self.eager_s[0], slowness * self.eager_s[1]),
        )

    def gpu(self, size: StepSize) -> float:
        """Seconds on the GPU."""
        if size.prefill:
            seconds = interpolate(self.mixed, size.decodes + size.prefill)
        else:
            seconds = interpolate(self.decode, size.decodes)
        return seconds + self.per_context_token * size.context + self.per_attention * size.attention

    def schedule(self, size: StepSize) -> float:
        """Seconds in the engine before the GPU can begin."""
        return self.schedule_s + self.schedule_per_request * size.decodes

    def launch(self, size: StepSize, luck: float) -> float:
        """Seconds in the engine while the GPU may already work; luck: 0 (least) to 1 (most)."""
        if not size.prefill:
            return self.graph_s
        large = size.decodes + size.prefill > self.graph_tokens
        least, most = self.eager_s if large else self.pieces_s
        return least + luck * (most - least)

    def update(self, requests: int) -> float:
        """Seconds in the engine for the answer to a step of so many requests."""
        return self.update_s + self.update_per_request * requests


def latency_of(file: VllmFile) -> StepLatency:
    """From the tables gpu, engine and client of a profile."""
    gpu, engine, client = file.gpu, file.engine, file.client
    return StepLatency(
        decode=_seconds(gpu.decode_ms),
        mixed=_seconds(gpu.mixed_ms),
        per_context_token=gpu.per_context_token_ns / 1e9,
        per_attention=gpu.per_attention_ps / 1e12,
        schedule_s=engine.schedule_ms / 1e3,
        schedule_per_request=engine.schedule_per_request_us / 1e6,
        graph_tokens=engine.graph_tokens,
        graph_s=engine.graph_ms / 1e3,
        pieces_s=_range(engine.pieces_ms),
        eager_s=_range(engine.eager_ms),
        update_s=engine.update_ms / 1e3,
        update_per_request=engine.update_per_request_us / 1e6,
        hand_out_s=client.hand_out_us / 1e6,
        reply_s=client.reply_ms / 1e3,
    )


def interpolate(points: Points, x: float) -> float:
    """Straight lines between (x, y) points; before and after, the first and last line go on."""
    at = bisect_right(points, x, 1, len(points) - 1, key=itemgetter(0))
    (x0, y0), (x1, y1) = points[at - 1 : at + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _seconds(points: list[list[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((x, ms / 1e3) for x, ms in points)


def _range(ms: list[float]) -> tuple[float, float]:
    least, most = ms
    return least / 1e3, most / 1e3
