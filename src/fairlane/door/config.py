"""The configuration of a server that schedules fairly: one TOML file.

    [scheduler]
    name = "vtc"            # any of `fairlane schedulers`; further keys are its options
    groups = false          # clients' names are paths: "acme/eng/alice"

    [prices]                # of a token; or cost = "quadratic" and its coefficients
    input = 1.0
    output = 2.0
    cached = 0.1            # an input token that the prefix cache held

    [weights]
    alice = 2.0

What access.py describes (tenants, identity, limits, metrics) is in the same file, and so is with
whom charges are shared (cluster/config.py), where usage is kept (usage/config.py), what its page
may do (dashboard.py), what is told of each request (access_log.py, tracing.py) and what a host
adds. Every mistake is one line that names file, section and key.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from fairlane.cluster.config import RAY, Cluster
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.fair_queue import split_path
from fairlane.core.options import Weight
from fairlane.core.policy import Policy
from fairlane.door.access import TABLES as ACCESS_TABLES
from fairlane.door.access import Access, table
from fairlane.door.access_log import parse_log
from fairlane.door.dashboard import DashboardOptions
from fairlane.door.tracing import TracingConfig
from fairlane.policies.registry import get_policy
from fairlane.usage.config import Keeping
from fairlane.validation import checked

T = TypeVar("T")
CACHED_PRICE = 0.1
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
class Scheduling:
    """[scheduler]: see the module. A host may add keys of its own."""

    name: str = "vtc"
    groups: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = get_policy(self.name)
        if "true_length" in spec.options:
            raise FairlaneError(
                f"{self.name} needs true output lengths, which no server knows; take vtc-predict"
            )
        if "cached_tokens" in spec.options:
            raise FairlaneError(
                f"{self.name} needs to see the prefix cache, which no engine shows it yet, and "
                "would serve in order of arrival; take vtc"
            )
        if self.groups and "path_of" not in spec.options:
            raise FairlaneError(f"groups: {self.name} knows no groups; remove it")

    @classmethod
    def parse(cls, written: Mapping[str, Any]) -> Self:
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
    def weightless(self) -> str:
        """The scheduler's name if it has no weights, else ""."""
        return "" if self.policy().has_weights else get_policy(self.name).name


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration whose every part has been checked. SECTIONS: the tables that it may have."""

    SECTIONS: ClassVar[tuple[str, ...]] = (
        "scheduler", "prices", "weights", "cluster", "dashboard", "log", "tracing", "usage",
        *ACCESS_TABLES,
    )  # fmt: skip
    ENDS_WAITS: ClassVar[bool] = False  # whether its host refuses who waited for max_wait_s
    HAS_UPSTREAMS: ClassVar[bool] = False  # whether its host serves by those of others
    scheduler: Scheduling = field(default_factory=Scheduling)
    cost: LinearCost | QuadraticCost = field(
        default_factory=lambda: LinearCost(cached_price=CACHED_PRICE)
    )
    weights: Mapping[str, float] = field(default_factory=dict)
    access: Access = field(default_factory=Access)
    cluster: Cluster = field(default_factory=Cluster)
    dashboard: DashboardOptions = field(default_factory=DashboardOptions)
    access_log: str = ""  # a file, "-" for standard output, "" for none
    tracing: TracingConfig = field(default_factory=TracingConfig)
    usage: Keeping = field(default_factory=Keeping)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check a file. Raises ConfigError."""
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"{path}: cannot be read ({reason})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from None
        try:
            return cls.parse(document, Path(path).parent)
        except (FairlaneError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, document: Mapping[str, Any], folder: Path) -> Self:
        """From the parsed file; names of files are relative to `folder`. Raises FairlaneError."""
        for name in document:
            if name not in (*cls.SECTIONS, "tenants"):
                known = ", ".join(f"[{section}]" for section in cls.SECTIONS)
                raise FairlaneError(f"unknown section [{name}]; known: {known}, and tenants")
        scheduler = read_table(document, "scheduler", cls._scheduling().parse)
        written = {name: document[name] for name in ("weights",) if name in document}
        weights = checked(_Weights, written).get("weights", {})
        usage = read_table(document, "usage", lambda table: Keeping.parse(table, folder))
        access = Access.parse(
            document, folder, weights=weights, weightless=scheduler.weightless,
            ends_waits=cls.ENDS_WAITS, keeps_usage=usage.on,
        )  # fmt: skip
        cost = read_table(document, "prices", _prices)
        cluster = read_table(document, "cluster", lambda table: Cluster.parse(table, folder))
        dashboard = read_table(
            document, "dashboard", lambda table: DashboardOptions.parse(table, folder, access)
        )
        access_log = read_table(document, "log", lambda table: parse_log(table, folder))
        tracing = read_table(document, "tracing", TracingConfig.parse)
        config = cls(
            scheduler, cost, weights, access, cluster, dashboard, access_log, tracing,
            usage, **cls._more(document, folder),
        )  # fmt: skip
        config.check_scheduler()
        config.policy()
        return config

    def check_scheduler(self) -> None:
        """Raise FairlaneError for what the scheduler cannot honour, but for weights under fcfs."""
        name, who = self.scheduler.weightless, self.access.weighted()
        if who and name not in ("", _ENGINES_ORDER):
            raise FairlaneError(
                f"[scheduler] name: {name} has no weights, but {who} has one; take vtc or drr, or "
                "give everyone the weight 1"
            )
        if who := self.access.quota():
            if not self.usage.on:
                raise FairlaneError(
                    f"{who} has a quota, which needs a database of usage; name one: [usage] "
                    'database = "usage.sqlite"'
                )
            who = self.access.quota(soft=True)
            if who and name not in ("", _ENGINES_ORDER):
                raise FairlaneError(
                    f"[scheduler] name: {name} has no weights, but {who} has a soft quota; take "
                    "vtc or drr, or a quota that is not soft"
                )
        if self.cluster != Cluster() and not self.scheduler.policy().can_share:
            raise FairlaneError(
                f"[cluster] {self.scheduler.name} cannot share what it charges; take vtc, or "
                "remove the table"
            )
        if self.cluster.shared_limits and self.access.rules.adapters:
            raise FairlaneError(
                "[cluster] shared_limits: limits hold for each server by itself where adapters "
                "name clients ([identity] lora); remove one of them"
            )
        if self.cluster.same_upstreams and not self.HAS_UPSTREAMS:
            raise FairlaneError("[cluster] same_upstreams is for gateways; remove it")
        if not self.cluster.ranks and self.HAS_UPSTREAMS:
            raise FairlaneError(
                "[cluster] ranks is for a vLLM server; a gateway has none; remove it"
            )
        if self.cluster.hub == RAY and self.HAS_UPSTREAMS:
            raise FairlaneError(
                '[cluster] hub: "ray" is for replicas in a Ray cluster; a gateway needs a server'
            )

    @property
    def tells_requests(self) -> str:
        """The table that wants to hear of each request, "" for none."""
        return "[log]" if self.access_log else "[tracing]" if self.tracing.on else ""

    @property
    def name_of(self) -> Callable[[str], str]:
        """From a client to whom auditors compare: of groups the outermost, as only these differ."""
        return _top_group if self.scheduler.groups else str

    @property
    def cached_part(self) -> float:
        """The price of a cached prompt token as a part of another's; 1 where nothing is cheaper."""
        nothing = self.cost.admission(0)
        full = self.cost.admission(1000) - nothing
        cached = self.cost.admission(1000, 1000) - nothing
        return min(1.0, cached / full) if full > 0 else 1.0

    def policy(self, **more: Any) -> Policy[Any]:
        """A fresh policy. One that takes no prices (fcfs) is audited and reported by them."""
        path_of = split_path if self.scheduler.groups else None
        return self.scheduler.policy(cost=self.cost, weights=self.weights, path_of=path_of, **more)

    @classmethod
    def _scheduling(cls) -> type[Scheduling]:
        """What [scheduler] is read as."""
        return Scheduling

    @classmethod
    def _more(cls, document: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """What a host adds, by field."""
        return {}


def _top_group(client: str) -> str:
    return split_path(client)[0]


def read_table(
    document: Mapping[str, Any], name: str, parse: Callable[[Mapping[str, Any]], T]
) -> T:
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
