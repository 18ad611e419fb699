"""Latency profiles: how long a step takes on a given GPU with a given model.

A profile is a TOML file in `profiles/` with its provenance beside the numbers; adding one takes
no code. It says which serving loop was measured: that of slora.py, unless it says `loop = "vllm"`.

There, decode: floor or a + g(batch size) + c * context tokens + m * longest context. Prefill
depends on the prompt tokens of the batch alone: a staircase (GEMM tiles) or straight lines between
points. What a vLLM server's steps depend on is in step_latency.py.
"""

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.simulator.profile_file import MAX_TOKENS, Decode, Prefill, SloraFile, VllmFile
from fairlane.simulator.randomness import Noise
from fairlane.simulator.step_latency import StepLatency, StepSize, latency_of
from fairlane.validation import parsed

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
    """A profile from a TOML file. Raises ProfileError, naming the file and the key."""
    try:
        return _parse(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        cause = (error.strerror or "").lower()
        raise ProfileError(f"{path}: cannot be read ({cause})") from error
    except ValueError as error:  # bad TOML, bad UTF-8, or no profile
        raise ProfileError(f"{path}: not a latency profile: {error}") from error


def _parse(name: str, data: dict[str, Any]) -> Profile:
    match data.get("loop", "slora"):
        case "slora":
            return _slora(name, parsed(SloraFile, data))
        case "vllm":
            return _vllm(name, parsed(VllmFile, data))
        case loop:
            raise FairlaneError(f"loop must be slora or vllm, not {loop!r}")


def _vllm(name: str, file: VllmFile) -> VllmProfile:
    low, high = file.client.arrive_ms
    return VllmProfile(
        name=name,
        summary=file.summary,
        memory_tokens=file.memory_tokens,
        **file.scheduler.model_dump(),
        latency=latency_of(file),
        noise=Noise(**file.noise.model_dump(), delay_s=(low / 1e3, high / 1e3)),
        provenance=file.provenance,
    )


def _slora(name: str, file: SloraFile) -> SloraProfile:
    decode = file.decode
    table, tile = _prefill_table(file.prefill)
    return SloraProfile(
        name=name,
        summary=file.summary,
        memory_tokens=file.memory_tokens,
        decode_base=tuple(_decode_base(decode, n) / 1e3 for n in range(MAX_BATCH + 1)),
        decode_per_token=decode.per_context_token_us / 1e6,
        decode_per_longest=decode.per_longest_token_us / 1e6,
        decode_floor=decode.floor_ms / 1e3,
        prefill_table=tuple(ms / 1e3 for ms in table),
        prefill_tile=tile,
        provenance=file.provenance,
    )


def _decode_base(decode: Decode, n: int) -> float:
    """Milliseconds of a decode step of n requests, context aside."""
    ms = decode.constant_ms + decode.per_request_us * n / 1e3
    ms += sum(jump for above, jump in decode.jumps_ms if n > above)
    if decode.curve_ms is not None:
        ms += _interpolate(decode.curve_ms, n)
    return ms


def _prefill_table(prefill: Prefill) -> tuple[list[float], int]:
    """Milliseconds by number of tiles, and the tokens of a tile."""
    stairs, tile, points = prefill.staircase_ms, prefill.tile_tokens, prefill.points_ms
    if stairs is not None and tile is not None and points is None:
        return stairs, tile
    if points is None or stairs is not None or tile is not None:
        raise FairlaneError("prefill needs staircase_ms with tile_tokens, or points_ms alone")
    last = points[-1][0]
    if not 2 <= last <= MAX_TOKENS:
        raise FairlaneError(
            f"prefill.points_ms must end at 2 to {MAX_TOKENS:,} tokens, not {last:,g}"
        )
    return [_interpolate(points, tokens) for tokens in range(int(last) + 1)], 1


def _interpolate(points: list[list[float]], x: float) -> float:
    """Straight lines between (x, y) points; the first and last y hold outside."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
