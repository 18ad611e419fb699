"""The configuration of the vLLM integration: one TOML file, named by FAIRLANE_CONFIG.

Beside what door/config.py and door/access.py describe it has

    [scheduler]
    preemption = "fairest"  # whom vLLM preempts: of the client that holds most memory; "newest":
                            # its own choice, and the default under fcfs
    adapter_patience = 4000 # how far others may get ahead of a client that waits for its LoRA
                            # adapter's turn, in cost units

Without the variable everything is as by default: VTC, one client called anonymous.
"""

import os
from dataclasses import dataclass, field
from typing import Literal

from fairlane.core.errors import FairlaneError
from fairlane.core.options import NotNegative
from fairlane.core.preemption import default_preemption
from fairlane.door.config import Configuration, Scheduling
from fairlane.policies.registry import get_policy

VARIABLE = "FAIRLANE_CONFIG"
_PATIENCE = 4000.0


@dataclass(frozen=True, slots=True)
class SchedulerSection(Scheduling):
    """[scheduler]: see the module. None is the default that suits the scheduler."""

    preemption: Literal["newest", "fairest"] | None = None
    adapter_patience: NotNegative | None = None

    def __post_init__(self) -> None:
        Scheduling.__post_init__(self)
        if self.adapter_patience is not None and not self.policy().has_counters:
            raise FairlaneError(f"adapter_patience: {self.name} keeps no counters; remove it")

    @property
    def preempts(self) -> str:
        """Whom vLLM preempts (core/preemption.py): as written, or else the scheduler's default."""
        return self.preemption or default_preemption(get_policy(self.name).name)

    @property
    def patience(self) -> float:
        """`adapter_patience`, or its default."""
        return _PATIENCE if self.adapter_patience is None else self.adapter_patience


@dataclass(frozen=True, slots=True)
class FairlaneConfig(Configuration):
    """A configuration of the plugin."""

    scheduler: SchedulerSection = field(default_factory=SchedulerSection)

    @classmethod
    def from_environment(cls) -> "FairlaneConfig":
        """What FAIRLANE_CONFIG names, or the defaults where it is unset or empty."""
        path = os.environ.get(VARIABLE)
        return cls.read(path) if path else cls()

    @classmethod
    def _scheduling(cls) -> type[Scheduling]:
        return SchedulerSection
