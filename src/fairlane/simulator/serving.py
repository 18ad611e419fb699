"""The settings of a simulated server, with the artifact's values as defaults."""

from dataclasses import dataclass
from enum import Enum

from fairlane.core.errors import FairlaneError
from fairlane.simulator.profile import MAX_BATCH, Profile


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What makes one run differ from another: standard deviations of normal factors, and a range.

    step, run: relative, of each step's latency and of a whole run's. delay_s: a request reaches
    the router after a uniform delay of this range; without noise its lower end.
    """

    step: float = 0.0
    run: float = 0.0
    delay_s: tuple[float, float] = (0.003, 0.003)


NO_NOISE = Noise()
MEASURED_NOISE = Noise(step=0.01, run=0.003, delay_s=(0.003, 0.005))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One simulated server. Defaults are the artifact's (S-LoRA's runtime); times in seconds.

    memory_tokens: KV cache size C. prompt_overhead: tokens that the tokenizer adds to a prompt.
    adapter_tokens: memory that each distinct client in the batch takes (its LoRA adapter).
    decodes_between_admissions: decode steps after a prefill before the queue is asked again.
    messages_per_turn: requests and notices that the router reads per turn of its event loop.
    first_prefill_delay_s: how much longer the first prefill after a cold start takes.
    abort_notice_s: after how long a rejected client learns of it.
    """

    profile: Profile
    memory_tokens: int = 0  # 0: the profile's
    charging: Charging = Charging.DELIVERY
    prompt_overhead: int = 2
    adapter_tokens: int = 32
    decodes_between_admissions: int = 10
    idle_poll_s: float = 0.010
    messages_per_turn: float = 1.5
    reply_delay_s: float = 0.004
    finish_notice_s: float = 0.005
    abort_notice_s: float = 5.0
    first_prefill_delay_s: float = 0.0
    noise: Noise = NO_NOISE

    def __post_init__(self) -> None:
        if self.memory_tokens == 0:
            object.__setattr__(self, "memory_tokens", self.profile.memory_tokens)
        if self.memory_tokens < 1:
            raise FairlaneError(f"memory-tokens must be positive, not {self.memory_tokens}")

    @property
    def max_batch(self) -> int:
        """Requests that run at once, at most."""
        return MAX_BATCH

    @property
    def max_prefill_tokens(self) -> int:
        """Prompt tokens that are prefilled in one batch, at most."""
        return max(self.memory_tokens // 6, 3072)

    @property
    def max_prompt_tokens(self) -> int:
        """Longest prompt that is served."""
        return 2048

    @property
    def max_total_tokens(self) -> int:
        """Longest prompt and output together that are served."""
        return min(3072, self.memory_tokens - 2)
