"""Latency profiles: how long a step takes on a given GPU with a given model.

A profile is a TOML file in `profiles/` with its provenance beside the numbers; adding one takes
no code. It says which serving loop was measured: that of slora.py, unless it says `loop = "vllm"`.

There, decode: floor or a + g(batch size) + c * context tokens + m * longest context. Prefill
depends on the prompt tokens of the batch alone: a staircase (GEMM tiles) or straight lines between
points. What a vLLM server's steps depend on is in step_latency.py.
"""

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.simulator.randomness import Noise
from fairlane.simulator.step_latency import StepLatency, StepSize, parse_latency

MAX_BATCH = 1000  # requests in a running batch, at most


class ProfileError(FairlaneError):
    """A profile that cannot be read; says which file and what is wrong."""


@dataclass(frozen=True, kw_only=True)
class Profile(ABC):
    """Step latencies in seconds, and the memory that was measured with them."""

    name: str
    summary: str
    memory_tokens: int
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def decode(self, batch: int, context_tokens: int, longest: int) -> float:
        """Seconds for one token for each of `batch` requests.

        context_tokens: prompt and generated tokens of the batch before the step; longest: of the
        request that has most.
        """

    @abstractmethod
    def prefill(self, prompt_tokens: int) -> float:
        """Seconds to prefill `prompt_tokens` in one batch, with their first output tokens."""


@dataclass(frozen=True, kw_only=True)
class SloraProfile(Profile):
    """A server with the loop of slora.py.

    decode_base[n]: the part of a decode step that depends on its n running requests alone.
    """

    decode_base: tuple[float, ...]
    decode_per_token: float
    decode_per_longest: float
    decode_floor: float
    prefill_table: tuple[float, ...]
    prefill_tile: int

    def decode(self, batch: int, context_tokens: int, longest: int) -> float:
        """As of `Profile`."""
        seconds = (
            self.decode_base[batch]
            + self.decode_per_token * context_tokens
            + self.decode_per_longest * longest
        )
        return seconds if seconds > self.decode_floor else self.decode_floor

    def prefill(self, prompt_tokens: int) -> float:
        """As of `Profile`."""
        tile = -(-prompt_tokens // self.prefill_tile)
        table = self.prefill_table
        if tile < len(table):
            return table[tile]
        half = len(table) // 2  # beyond the measured range: go on as steeply as its second half
        slope = (table[-1] - table[half]) / (len(table) - 1 - half)
        return table[-1] + slope * (tile - len(table) + 1)


@dataclass(frozen=True, kw_only=True)
class VllmProfile(Profile):
    """A server with the loop of vllm.py, and its settings, named as vLLM names them."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    async_scheduling: bool
    latency: StepLatency
    noise: Noise

    def decode(self, batch: int, context_tokens: int, longest: int) -> float:
        """On the GPU; as of `Profile`."""
        return self.latency.gpu(StepSize(batch, context_tokens))

    def prefill(self, prompt_tokens: int) -> float:
        """On the GPU, of one prompt; as of `Profile`."""
        return self.latency.gpu(StepSize(0, 0, prompt_tokens, prompt_tokens**2))


def profile_names() -> list[str]:
    """Names of the profiles that come with Fairlane."""
    folder = files("fairlane.simulator") / "profiles"
    names = (file.name for file in folder.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


@cache
def get_profile(name: str) -> Profile:
    """A built-in profile by name, or one read from a path that ends in .toml."""
    if name.endswith(".toml"):
        return read_profile(Path(name))
    if name not in profile_names():
        raise UnknownNameError("profile", name, profile_names())
    resource = files("fairlane.simulator") / "profiles" / f"{name}.toml"
    return _parse(name, tomllib.loads(resource.read_text(encoding="utf-8")))


def read_profile(path: Path) -> Profile:
    """A profile from a TOML file."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return _parse(path.stem, data)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise ProfileError(f"{path}: not a latency profile: {error!r}") from error


def _parse(name: str, data: dict[str, Any]) -> Profile:
    loop = data.get("loop", "slora")
    if loop not in LOOPS:
        raise ValueError(f"loop is {loop!r}; known: {', '.join(LOOPS)}")
    return LOOPS[loop](name, data)


def _parse_vllm(name: str, data: dict[str, Any]) -> VllmProfile:
    low, high = data["client"]["arrive_ms"]
    return VllmProfile(
        name=name,
        summary=data["summary"],
        memory_tokens=data["memory_tokens"],
        **data["scheduler"],
        latency=parse_latency(data),
        noise=Noise(**data["noise"], delay_s=(low / 1e3, high / 1e3)),
        provenance=data.get("provenance", {}),
    )


def _parse_slora(name: str, data: dict[str, Any]) -> SloraProfile:
    decode, prefill = data["decode"], data["prefill"]
    table, tile = _prefill_table(prefill)
    return SloraProfile(
        name=name,
        summary=data["summary"],
        memory_tokens=data["memory_tokens"],
        decode_base=tuple(_decode_base(decode, n) / 1e3 for n in range(MAX_BATCH + 1)),
        decode_per_token=decode["per_context_token_us"] / 1e6,
        decode_per_longest=decode.get("per_longest_token_us", 0.0) / 1e6,
        decode_floor=decode.get("floor_ms", 0.0) / 1e3,
        prefill_table=tuple(ms / 1e3 for ms in table),
        prefill_tile=tile,
        provenance=data.get("provenance", {}),
    )


def _decode_base(decode: dict[str, Any], n: int) -> float:
    """Milliseconds of a decode step of n requests, context aside."""
    ms: float = decode["constant_ms"] + decode.get("per_request_us", 0.0) * n / 1e3
    ms += sum(jump for above, jump in decode.get("jumps_ms", []) if n > above)
    if "curve_ms" in decode:
        ms += _interpolate(decode["curve_ms"], n)
    return ms


def _prefill_table(prefill: dict[str, Any]) -> tuple[list[float], int]:
    """Milliseconds by number of tiles, and the tokens of a tile."""
    if "staircase_ms" in prefill:
        return prefill["staircase_ms"], prefill["tile_tokens"]
    points = prefill["points_ms"]
    return [_interpolate(points, tokens) for tokens in range(points[-1][0] + 1)], 1


def _interpolate(points: list[list[float]], x: float) -> float:
    """Straight lines between (x, y) points; the first and last y hold outside."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


LOOPS: dict[str, Callable[[str, dict[str, Any]], Profile]] = {
    "slora": _parse_slora,
    "vllm": _parse_vllm,
}
