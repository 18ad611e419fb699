"""The tables of a latency profile's file: what is in them, in the units that their names end in.

A profile of the paper's server has the tables of `SloraFile`, one with `loop = "vllm"` those of
`VllmFile`. Points are pairs of x and y, x growing.
"""

from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from fairlane.core.options import Count, Fraction, NotNegative
from fairlane.validation import Table

MAX_TOKENS = 1 << 20  # of the points of a prefill, which become one number per token


def _growing(points: list[list[float]]) -> list[list[float]]:
    if any(x1 <= x0 for (x0, _), (x1, _) in pairwise(points)):
        raise ValueError("must have its points in order of the first number, none twice")
    return points


def _from_least_to_most(limits: list[float]) -> list[float]:
    if limits[0] > limits[1]:
        raise ValueError("must be the least first, then the most")
    return limits


Pair = Annotated[list[NotNegative], Field(min_length=2, max_length=2)]
Limits = Annotated[Pair, AfterValidator(_from_least_to_most)]
Points = Annotated[list[Pair], Field(min_length=2), AfterValidator(_growing)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Jump = Annotated[list[Finite], Field(min_length=2, max_length=2)]  # a larger batch may be faster


class Decode(Table):
    """A decode step of the paper's server. jumps_ms: larger batches than so many take longer."""

    constant_ms: NotNegative
    per_context_token_us: NotNegative
    per_request_us: NotNegative = 0.0
    per_longest_token_us: NotNegative = 0.0
    floor_ms: NotNegative = 0.0
    jumps_ms: Annotated[list[Jump], Field(default_factory=list)]
    curve_ms: Points | None = None


class Prefill(Table):
    """A prefill of the paper's server: a staircase of tiles, or points by tokens."""

    staircase_ms: Annotated[list[NotNegative], Field(min_length=3)] | None = None
    tile_tokens: Count | None = None
    points_ms: Points | None = None


class _File(Table):
    """What all profiles say."""

    loop: str = "slora"
    summary: str
    memory_tokens: Count
    provenance: Annotated[dict[str, Any], Field(default_factory=dict)]


class SloraFile(_File):
    """A profile of the paper's server."""

    decode: Decode
    prefill: Prefill


class Scheduler(Table):
    """Settings of a vLLM server, named as vLLM names them."""

    max_num_seqs: Count
    max_num_batched_tokens: Count
    max_model_len: Count
    block_size: Count
    async_scheduling: bool


class Gpu(Table):
    """What a step takes on the GPU; of `StepLatency`."""

    decode_ms: Points
    mixed_ms: Points
    per_context_token_ns: NotNegative
    per_attention_ps: NotNegative


class Engine(Table):
    """What a step takes in the engine; of `StepLatency`."""

    schedule_ms: NotNegative
    schedule_per_request_us: NotNegative
    graph_tokens: Count
    graph_ms: NotNegative
    pieces_ms: Limits
    eager_ms: Limits
    update_ms: NotNegative
    update_per_request_us: NotNegative


class Client(Table):
    """What it takes to and from the engine. arrive_ms: the least and the most."""

    arrive_ms: Limits
    hand_out_us: NotNegative
    reply_ms: NotNegative


class NoiseTable(Table):
    """Relative; of `Noise`."""

    step: Fraction = 0.0
    run: Fraction = 0.0


class VllmFile(_File):
    """A profile of a vLLM server."""

    scheduler: Scheduler
    gpu: Gpu
    engine: Engine
    client: Client
    noise: NoiseTable
