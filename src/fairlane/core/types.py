"""What hosts and policies say to each other: requests, rejections, outcomes, snapshots.

Plain immutable values with no behaviour, so that the same ones travel through the simulator, a
server and a test.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

RequestId: TypeAlias = Hashable


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a scheduler may know it: never its true output length.

    id: unique among the requests that are waiting or running.
    client: the trusted name of whoever is charged for it.
    prompt_tokens: input length in tokens, >= 0.
    max_output_tokens: the most output tokens it may produce, or None when unlimited.
    """

    id: RequestId
    client: str
    prompt_tokens: int
    max_output_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.prompt_tokens < 0:
            raise ValueError(f"request {self.id!r}: prompt_tokens is negative")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request was not queued. `retry_after_s` is None when waiting does not help."""

    reason: str
    retry_after_s: float | None = None


class Outcome(Enum):
    """How a request ended. Only a finished one tells a predictor anything about lengths."""

    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class ClientState:
    """One client at one moment. `counter` is None for policies that keep no counter."""

    queued: int = 0
    running: int = 0
    counter: float | None = None
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen picture of a policy, for telemetry and tests: active clients by name."""

    clients: Mapping[str, ClientState]

    @property
    def queued(self) -> int:
        """Requests waiting, over all clients."""
        return sum(state.queued for state in self.clients.values())

    @property
    def running(self) -> int:
        """Requests running, over all clients."""
        return sum(state.running for state in self.clients.values())
