"""The settings of simulated servers, and what their loops have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.preemption import PREEMPTIONS
from fairlane.core.types import Rejection
from fairlane.simulator.profile import MAX_BATCH, Profile, VllmProfile
from fairlane.simulator.randomness import Noise
from fairlane.workloads.lengths import LengthLimit


class Charging(Enum):
    """When the serving loop reports output tokens to the policy.

    DELIVERY: as they are delivered, as the paper has it. STEP_START: at the start of the next
    decode step, so that a request's last token is never charged (the artifact until May 2024).
    STEP_START_AND_FINISH: also for the whole batch in a step that finishes a request, which charges
    those tokens twice (the artifact from June 2024).
    """

    DELIVERY = "delivery"
    STEP_START = "step-start"
    STEP_START_AND_FINISH = "step-start-and-finish"


MAX_PROMPT_TOKENS = 2048  # that the artifact's server takes, ...
MAX_TOTAL_TOKENS = 3072  # ... and with its output
NO_NOISE = Noise(delay_s=(0.003, 0.003))
MEASURED_NOISE = Noise(step=0.01, run=0.003, delay_s=(0.003, 0.005))


@dataclass(slots=True)
class Times:
    """When things happened, by position of the request; server time in seconds."""

    first_token: list[float | None]
    end: list[float | None]
    rejection: dict[int, str] = field(default_factory=dict)
    each_token: bool = False  # it is a loop's listener, and of tokens the first and last will do

    def accepted(self, position: int) -> None:
        """As of `Listener`."""

    def rejected(self, position: int, rejection: Rejection) -> None:
        """As of `Listener`."""
        self.rejection[position] = rejection.reason

    def token(self, position: int, at: float, last: bool) -> None:
        """As of `Listener`."""
        if self.first_token[position] is None:
            self.first_token[position] = at
        if last:
            self.end[position] = at


@dataclass(frozen=True, slots=True, kw_only=True)
class Server(ABC):
    """What all simulated servers have; times in seconds.

    memory_tokens: KV cache size C. prompt_overhead: tokens that the tokenizer adds to a prompt.
    first_prefill_delay_s: how much longer the first prefill after a cold start takes.
    abort_notice_s: after how long a rejected client learns of it.
    """

    profile: Profile
    memory_tokens: int = 0  # 0: the profile's
    noise: Noise = NO_NOISE
    prompt_overhead: int = 0
    reply_delay_s: float = 0.0
    abort_notice_s: float = 0.0
    first_prefill_delay_s: float = 0.0

    def __post_init__(self) -> None:
        if self.memory_tokens == 0:
            object.__setattr__(self, "memory_tokens", self.profile.memory_tokens)
        if self.longest.total < 2:  # a token in, a token out
            raise FairlaneError(
                f"memory-tokens must be at least {self.least_memory_tokens}, not "
                f"{self.memory_tokens}: no request would fit"
            )

    @property
    @abstractmethod
    def longest(self) -> LengthLimit:
        """The longest requests that this server, with nobody else there, can serve to the end."""

    @property
    @abstractmethod
    def least_memory_tokens(self) -> int:
        """The memory in which the shortest request fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(Server):
    """One server with the loop of slora.py. Defaults are the artifact's; times in seconds.

    adapter_tokens: memory that each distinct client in the batch takes (its LoRA adapter).
    decodes_between_admissions: decode steps after a prefill before the queue is asked again.
    messages_per_turn: requests and notices that the router reads per turn of its event loop.
    """

    charging: Charging = Charging.DELIVERY
    prompt_overhead: int = 2
    adapter_tokens: int = 32
    decodes_between_admissions: int = 10
    idle_poll_s: float = 0.010
    messages_per_turn: float = 1.5
    reply_delay_s: float = 0.004
    finish_notice_s: float = 0.005
    abort_notice_s: float = 5.0

    @property
    def max_batch(self) -> int:
        """Requests that run at once, at most."""
        return MAX_BATCH

    @property
    def max_prefill_tokens(self) -> int:
        """Prompt tokens that are prefilled in one batch, at most."""
        return max(self.memory_tokens // 6, 3072)

    @property
    def longest(self) -> LengthLimit:
        """As of `Server`: within the model's limits, and in memory beside one adapter.

        The admission test of `slora.py` asks for less than what is there, hence the 1.
        """
        kept = max(self.adapter_tokens + 1, 2)
        total = min(MAX_TOTAL_TOKENS, self.memory_tokens - kept) - self.prompt_overhead
        prompt = min(MAX_PROMPT_TOKENS, self.max_prefill_tokens) - self.prompt_overhead
        return LengthLimit(min(prompt, total - 1), total)

    @property
    def least_memory_tokens(self) -> int:
        """As of `Server`."""
        return max(self.adapter_tokens + 1, 2) + self.prompt_overhead + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmConfig(Server):
    """One server with the loop of vllm.py; memory is handed out in whole blocks.

    preemption: "newest" or "fairest", see core/preemption.py; weights: for it, by client.
    """

    profile: VllmProfile
    preemption: str = "newest"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Server.__post_init__(self)
        if self.preemption not in PREEMPTIONS:
            raise UnknownNameError("preemption", self.preemption, PREEMPTIONS)

    @property
    def blocks(self) -> int:
        """Blocks of the KV cache that requests can have: vLLM keeps one for itself."""
        return self.memory_tokens // self.profile.block_size - 1

    @property
    def longest(self) -> LengthLimit:
        """As of `Server`: vLLM takes no request that may not fit in its memory alone."""
        total = min(self.profile.max_model_len, self.blocks * self.profile.block_size)
        return LengthLimit(total - 1, total)

    @property
    def least_memory_tokens(self) -> int:
        """As of `Server`."""
        size = self.profile.block_size
        return size + max(size, 2)


AnyServer = ServerConfig | VllmConfig
