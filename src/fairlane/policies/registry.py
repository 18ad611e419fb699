"""Policies by name: what there is, what each takes, and how outsiders add theirs.

A policy is a factory with keyword-only options; its signature says which options it accepts, of
which types and within which ranges (core/options.py), the keys of an unpacked TypedDict included.
An outside package adds one by an entry point in the group "fairlane.policies" whose object is a
PolicySpec.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.core.policy import Policy
from fairlane.policies.dlpm import dlpm, lpm
from fairlane.policies.drr import drr
from fairlane.policies.fcfs import fcfs
from fairlane.policies.lcf import lcf
from fairlane.policies.round_robin import round_robin
from fairlane.policies.rpm import rpm
from fairlane.policies.vtc import vtc, vtc_oracle, vtc_predict
from fairlane.validation import checked, options_of

ENTRY_POINT_GROUP = "fairlane.policies"


@dataclass(frozen=True)
class PolicySpec:
    """A named policy: its factory, the other names it answers to, and one line on it."""

    name: str
    factory: Callable[..., Policy[Any]]
    summary: str
    aliases: tuple[str, ...] = ()

    @property
    def options(self) -> frozenset[str]:
        """The names of the options that the factory accepts."""
        return frozenset(options_of(self.factory))

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options as the factory takes them.

        Raises FairlaneError for one that it does not take, or not of that type or size.
        """
        for option in options:
            if option not in self.options:
                takes = ", ".join(sorted(self.options)) or "no options"
                raise FairlaneError(f"scheduler {self.name} takes {takes}, not {option}")
        return checked(self.factory, options)

    def create(self, **options: Any) -> Policy[Any]:
        """A fresh policy. Raises FairlaneError as `check` does."""
        return self.factory(**self.check(options))


BUILT_IN = (
    PolicySpec("fcfs", fcfs, "first come, first served: one queue for everyone", ("slora",)),
    PolicySpec("vtc", vtc, "Virtual Token Counter: fair in tokens served, bounded", ("vtc_fair",)),
    PolicySpec(
        "vtc-predict",
        vtc_predict,
        "VTC that charges a moving average of the client's output lengths at admission",
        ("vtc_len_predict",),
    ),
    PolicySpec(
        "vtc-oracle",
        vtc_oracle,
        "VTC that charges the true output length, or one blurred by +-p, at admission",
        ("vtc_oracle",),
    ),
    PolicySpec("lcf", lcf, "least counter first: VTC without the lift", ("lcf_fair",)),
    PolicySpec(
        "rpm", rpm, "a limit of requests per minute and client, then FCFS", ("lshare_fair",)
    ),
    PolicySpec("drr", drr, "deficit round robin with debts for generated tokens", ("mdrr_fair",)),
    PolicySpec("round-robin", round_robin, "one request per client in turn"),
    PolicySpec("dlpm", dlpm, "longest cached prefix first among clients with a positive balance"),
    PolicySpec("lpm", lpm, "longest cached prefix first, whoever sent it"),
)


@cache
def _specs() -> dict[str, PolicySpec]:
    """All policies by name; an outsider may not take a name that exists."""
    specs = {spec.name: spec for spec in BUILT_IN}
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        spec = entry_point.load()
        if not isinstance(spec, PolicySpec):
            raise FairlaneError(f"entry point {entry_point.value} is not a PolicySpec")
        if spec.name in specs:
            raise FairlaneError(f"entry point {entry_point.value} redefines {spec.name!r}")
        specs[spec.name] = spec
    return specs


def policy_names() -> list[str]:
    """Names of all policies, the built-in ones first."""
    return list(_specs())


def get_policy(name: str) -> PolicySpec:
    """The policy of that name or alias. Raises UnknownNameError with the nearest names."""
    specs = _specs()
    if name in specs:
        return specs[name]
    for spec in specs.values():
        if name in spec.aliases:
            return spec
    raise UnknownNameError("scheduler", name, specs)


def create_policy(name: str, **options: Any) -> Policy[Any]:
    """A fresh policy of that name or alias with the given options."""
    return get_policy(name).create(**options)
