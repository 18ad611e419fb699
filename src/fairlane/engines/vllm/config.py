"""The configuration of the vLLM integration: one TOML file, named by FAIRLANE_CONFIG.

    [scheduler]
    name = "vtc"            # any of `fairlane schedulers`; further keys are its options
    groups = false          # clients' names are paths: "acme/eng/alice"
    preemption = "fairest"  # whom vLLM preempts: of the client that holds most memory; "newest":
                            # its own choice, and the default under fcfs
    adapter_patience = 4000 # how far others may get ahead of a client that waits for its LoRA
                            # adapter's turn, in cost units

    [prices]                # of a token; or cost = "quadratic" and its coefficients
    input = 1.0
    output = 2.0
    cached = 0.1            # an input token that vLLM's prefix cache held

    [identity]
    anonymous = "anonymous" # who is charged for requests that nobody is named in
    lora = false            # ... or the LoRA adapter that they name, the paper's clients

    [weights]
    alice = 2.0

What access.py describes (tenants, limits, metrics, more of [identity]) is in the same file.
Without the variable everything is as above, without weights. Every mistake is one line that names
file, section and key.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError
from fairlane.core.fair_queue import split_path
from fairlane.core.policy import Policy
from fairlane.core.preemption import PREEMPTIONS, default_preemption
from fairlane.engines.vllm.access import TABLES as ACCESS_TABLES
from fairlane.engines.vllm.access import Access
from fairlane.policies.registry import get_policy

VARIABLE = "FAIRLANE_CONFIG"
CACHED_PRICE = 0.1
# Options of schedulers that only a program can give.
_NOT_IN_A_FILE = frozenset({"cost", "gates", "path_of", "predictor", "uniform", "weights"})


class ConfigError(FairlaneError):
    """A configuration that cannot be used, in one line."""


@dataclass(frozen=True, slots=True)
class SchedulerSection:
    """[scheduler]: see the module."""

    name: str = "vtc"
    groups: bool = False
    preemption: str = ""
    adapter_patience: float = 4000.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = get_policy(self.name)
        if "true_length" in spec.options:
            raise FairlaneError(
                f"{self.name} needs true output lengths, which no server knows; take vtc-predict"
            )
        for option in self.options:
            if option not in spec.options - _NOT_IN_A_FILE:
                takes = sorted(spec.options - _NOT_IN_A_FILE)
                own = ", ".join([f.name for f in fields(self)[:-1]] + takes)
                raise FairlaneError(f"unknown key {option!r}; known: {own}")
        if self.groups and "path_of" not in spec.options:
            raise FairlaneError(f"groups: {self.name} knows no groups; remove it")
        if self.preempts not in PREEMPTIONS:
            raise FairlaneError(
                f'preemption must be "newest" or "fairest", not {self.preemption!r}'
            )
        if not 0 <= self.adapter_patience < float("inf"):
            raise FairlaneError(f"adapter_patience must be at least 0, not {self.adapter_patience}")

    @property
    def preempts(self) -> str:
        """One of PREEMPTIONS: as written, or else the scheduler's default."""
        return self.preemption or default_preemption(self.name)


@dataclass(frozen=True, slots=True)
class IdentitySection:
    """[identity]: see the module."""

    anonymous: str = "anonymous"
    lora: bool = False

    def __post_init__(self) -> None:
        if not self.anonymous:
            raise FairlaneError("anonymous must not be empty")


@dataclass(frozen=True, slots=True)
class FairlaneConfig:
    """A configuration whose every part has been checked."""

    scheduler: SchedulerSection = field(default_factory=SchedulerSection)
    cost: LinearCost | QuadraticCost = field(
        default_factory=lambda: LinearCost(cached_price=CACHED_PRICE)
    )
    identity: IdentitySection = field(default_factory=IdentitySection)
    weights: Mapping[str, float] = field(default_factory=dict)
    access: Access = field(default_factory=Access)

    @classmethod
    def from_environment(cls) -> "FairlaneConfig":
        """What FAIRLANE_CONFIG names, or the defaults where it is unset or empty."""
        path = os.environ.get(VARIABLE)
        return cls.read(path) if path else cls()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "FairlaneConfig":
        """Read and check a file. Raises ConfigError."""
        try:
            tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"{path}: cannot be read ({reason}); see {VARIABLE}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        try:
            parsed: dict[str, Any] = {"access": Access.parse(tables, Path(path).parent)}
        except FairlaneError as error:
            raise ConfigError(f"{path}: {error}") from None
        for section, table in tables.items():
            if section in ACCESS_TABLES:
                continue
            reader = _READERS.get(section)
            if reader is None or not isinstance(table, dict):
                known = ", ".join(f"[{name}]" for name in (*_READERS, *ACCESS_TABLES))
                raise ConfigError(f"{path}: unknown section [{section}]; known: {known}")
            try:
                parsed["cost" if section == "prices" else section] = reader(table)
            except (FairlaneError, ValueError, TypeError) as error:
                raise ConfigError(f"{path}: [{section}] {error}") from None
        config = cls(**parsed)
        try:
            config.policy()
        except (FairlaneError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: [scheduler] {error}") from None
        return config

    def policy(self) -> Policy[Any]:
        """A fresh policy; what it does not take (prices and weights under FCFS) has no effect."""
        spec = get_policy(self.scheduler.name)
        shared = {
            "cost": self.cost,
            "weights": self.weights,
            "path_of": split_path if self.scheduler.groups else None,
        }
        taken = {name: value for name, value in shared.items() if name in spec.options}
        return spec.create(**taken, **self.scheduler.options)


def _typed(key: str, value: Any, kind: type) -> Any:
    """`value` if it is of that kind; whole numbers are numbers, truth values are not."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        names = {float: "a number", bool: "true or false", str: "a text"}
        raise FairlaneError(f"{key} must be {names[kind]}, not {value!r}")
    return value


def _scheduler(table: dict[str, Any]) -> SchedulerSection:
    own = {f.name: f.type for f in fields(SchedulerSection) if f.name != "options"}
    given = {k: _typed(k, v, own[k]) for k, v in table.items() if k in own}  # type: ignore[arg-type]
    options = {k: v for k, v in table.items() if k not in own}
    return SchedulerSection(**given, options=options)


def _prices(table: dict[str, Any]) -> LinearCost | QuadraticCost:
    kind = _typed("cost", table.get("cost", "linear"), str)
    rest = {key: _typed(key, value, float) for key, value in table.items() if key != "cost"}
    if kind == "linear":
        names = {"input": "input_price", "output": "output_price", "cached": "cached_price"}
        cached = {"cached_price": CACHED_PRICE}
        return LinearCost(**(cached | {names[key]: rest[key] for key in _known(rest, names)}))
    if kind == "quadratic":
        names = {f.name: f.name for f in fields(QuadraticCost)}
        names["cached"] = names.pop("cached_price")
        given = {"cached_price" if k == "cached" else k: rest[k] for k in _known(rest, names)}
        return QuadraticCost(**given)
    raise FairlaneError(f'cost must be "linear" or "quadratic", not {kind!r}')


def _known(table: dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    for key in table:
        if key not in names:
            raise FairlaneError(f"unknown key {key!r}; known: cost, {', '.join(names)}")
    return table


def _identity(table: dict[str, Any]) -> IdentitySection:
    """What the scheduler needs of it; access.py has read it all."""
    default = IdentitySection()
    return IdentitySection(
        table.get("anonymous") or default.anonymous, table.get("lora", default.lora)
    )


def _weights(table: dict[str, Any]) -> dict[str, float]:
    weights = {name: _typed(name, weight, float) for name, weight in table.items()}
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise FairlaneError(f"the weight of {name!r} must be positive, not {weight}")
    return weights


_READERS = {
    "scheduler": _scheduler, "prices": _prices, "identity": _identity, "weights": _weights,
}  # fmt: skip
