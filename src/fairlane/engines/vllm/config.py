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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.fair_queue import split_path
from fairlane.core.options import NotNegative, Weight
from fairlane.core.policy import Policy
from fairlane.core.preemption import default_preemption
from fairlane.engines.vllm.access import TABLES as ACCESS_TABLES
from fairlane.engines.vllm.access import Access, table
from fairlane.policies.registry import get_policy
from fairlane.validation import checked

T = TypeVar("T")
VARIABLE = "FAIRLANE_CONFIG"
CACHED_PRICE = 0.1
SECTIONS = ("scheduler", "prices", "weights", *ACCESS_TABLES)
# Options of schedulers that only a program can give.
_NOT_IN_A_FILE = frozenset({"cost", "gates", "path_of", "predictor", "uniform", "weights"})
_LINEAR = {"input": "input_price", "output": "output_price", "cached": "cached_price"}
_QUADRATIC = {
    "cached" if price.name == "cached_price" else price.name: price.name
    for price in fields(QuadraticCost)
}
_ENGINES_ORDER = "fcfs"  # taken to compare with: what it does not know is said, and not refused


@dataclass(frozen=True)
class _Weights:
    """[weights], as it is written."""

    weights: Mapping[str, Weight] = field(default_factory=dict)


class ConfigError(FairlaneError):
    """A configuration that cannot be used, in one line."""


@dataclass(frozen=True, slots=True)
class SchedulerSection:
    """[scheduler]: see the module. None is the default that suits the scheduler."""

    name: str = "vtc"
    groups: bool = False
    preemption: Literal["newest", "fairest"] | None = None
    adapter_patience: NotNegative | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = get_policy(self.name)
        if "true_length" in spec.options:
            raise FairlaneError(
                f"{self.name} needs true output lengths, which no server knows; take vtc-predict"
            )
        if "cached_tokens" in spec.options:
            raise FairlaneError(
                f"{self.name} needs to see the prefix cache, which vLLM does not show it yet, and "
                "would serve in order of arrival; take vtc"
            )
        if self.groups and "path_of" not in spec.options:
            raise FairlaneError(f"groups: {self.name} knows no groups; remove it")
        if self.adapter_patience is not None and not self.policy().has_counters:
            raise FairlaneError(f"adapter_patience: {self.name} keeps no counters; remove it")

    @classmethod
    def parse(cls, written: Mapping[str, Any]) -> "SchedulerSection":
        """From the table: its own keys, and those of the scheduler that it names."""
        own = [f.name for f in fields(cls) if f.name != "options"]
        given = checked(cls, {k: v for k, v in written.items() if k in own})
        spec = get_policy(given.get("name", cls().name))
        takes = spec.options - _NOT_IN_A_FILE
        options = {key: value for key, value in written.items() if key not in own}
        for key in options:
            if key not in takes:
                raise UnknownNameError("key", key, [*own, *takes])
        return cls(**given, options=spec.check(options))

    def policy(self, **shared: Any) -> Policy[Any]:
        """A fresh policy; of `shared` it gets what it takes."""
        spec = get_policy(self.name)
        taken = {name: value for name, value in shared.items() if name in spec.options}
        return spec.create(**taken, **self.options)

    @property
    def preempts(self) -> str:
        """Whom vLLM preempts (core/preemption.py): as written, or else the scheduler's default."""
        return self.preemption or default_preemption(get_policy(self.name).name)

    @property
    def patience(self) -> float:
        """`adapter_patience`, 4000 by default."""
        return 4000.0 if self.adapter_patience is None else self.adapter_patience


@dataclass(frozen=True, slots=True)
class FairlaneConfig:
    """A configuration whose every part has been checked."""

    scheduler: SchedulerSection = field(default_factory=SchedulerSection)
    cost: LinearCost | QuadraticCost = field(
        default_factory=lambda: LinearCost(cached_price=CACHED_PRICE)
    )
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
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"{path}: cannot be read ({reason}); see {VARIABLE}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        try:
            return cls.parse(document, Path(path).parent)
        except (FairlaneError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, document: Mapping[str, Any], folder: Path) -> "FairlaneConfig":
        """From the parsed file; names of files are relative to `folder`. Raises FairlaneError."""
        for name in document:
            if name not in (*SECTIONS, "tenants"):
                known = ", ".join(f"[{section}]" for section in SECTIONS)
                raise FairlaneError(f"unknown section [{name}]; known: {known}, and tenants")
        scheduler = _read(document, "scheduler", SchedulerSection.parse)
        written = {name: document[name] for name in ("weights",) if name in document}
        weights = checked(_Weights, written).get("weights", {})
        cost = _read(document, "prices", _prices)
        weightless = "" if scheduler.policy().has_weights else get_policy(scheduler.name).name
        access = Access.parse(document, folder, weights=weights, weightless=weightless)
        if weightless not in ("", _ENGINES_ORDER) and access.weighted():
            raise FairlaneError(
                f"[scheduler] name: {weightless} has no weights, but {access.weighted()} has one; "
                "take vtc or drr, or give everyone the weight 1"
            )
        config = cls(scheduler, cost, weights, access)
        config.policy()
        return config

    def policy(self) -> Policy[Any]:
        """A fresh policy. One that takes no prices (fcfs) is audited and reported by them."""
        return self.scheduler.policy(
            cost=self.cost,
            weights=self.weights,
            path_of=split_path if self.scheduler.groups else None,
        )


def _read(document: Mapping[str, Any], name: str, parse: Callable[[Mapping[str, Any]], T]) -> T:
    """What `parse` makes of a table. Raises FairlaneError that names the table."""
    try:
        return parse(table(document, name))
    except FairlaneError as error:
        raise FairlaneError(f"[{name}] {error}") from None


def _prices(written: Mapping[str, Any]) -> LinearCost | QuadraticCost:
    kind = written.get("cost", "linear")
    prices = {key: value for key, value in written.items() if key != "cost"}
    if kind == "quadratic":
        quadratic = QuadraticCost(**checked(QuadraticCost, prices, names=_QUADRATIC, what="key"))
        if not quadratic(1, 1):
            raise FairlaneError("prices must not all be 0: nobody would be charged")
        return quadratic
    if kind != "linear":
        raise FairlaneError(f'cost must be "linear" or "quadratic", not {kind!r}')
    given = checked(LinearCost, prices, names=_LINEAR, what="key")
    linear = LinearCost(**({"cached_price": CACHED_PRICE} | given))
    if not linear(1, 1):
        raise FairlaneError("input and output must not both be 0: nobody would be charged")
    return linear
