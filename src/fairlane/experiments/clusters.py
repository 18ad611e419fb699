"""What of a simulated run is a cluster's: how many replicas, who routes, what they tell each other.

Every setting here acts, or is refused.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from fairlane.cluster.config import Cluster
from fairlane.core.errors import FairlaneError
from fairlane.core.options import Count, NotNegative, Range
from fairlane.core.policy import Policy
from fairlane.simulator.routers import check_prefixes, make_router
from fairlane.validation import checked
from fairlane.workloads.rows import parse_number
from fairlane.workloads.trace import TracedRequest

EXCHANGE_S = Cluster().every_s  # as on real servers
GUARD = Cluster().guard
ROUTER = "random"  # round robin keeps clients that send in step apart

_WORDS = ("off", "central")
_Part = Annotated[float, Range(gt=0, lt=1)]
_Guard = Annotated[float, Range(ge=0, lt=1)]


def parse_exchange(text: str | None) -> float | str | None:
    """Seconds, or off or central. Raises FairlaneError."""
    if text is None or text in _WORDS:
        return text
    try:
        return parse_number(text)
    except ValueError:
        raise FairlaneError(f"--exchange takes seconds, off or central, not {text!r}") from None


def parse_reach(text: str | None) -> tuple[tuple[str, float], ...]:
    """What `bob=0.25,eve=0.5` says. Raises FairlaneError."""
    if text is None:
        return ()
    parts = [part.rpartition("=") for part in text.split(",")]
    try:
        reach = tuple((name.strip(), parse_number(part)) for name, _, part in parts)
    except ValueError:
        reach = ()
    if not reach or not all(name for name, _ in reach) or len(dict(reach)) < len(reach):
        raise FairlaneError(f"--reach takes CLIENT=PART with commas between, not {text!r}")
    return reach


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """None and () leave a setting to its default.

    router: a name in ROUTERS, random by default. reach: (client, part of the replicas that its
    requests may go to), all by default. exchange: seconds between two exchanges of charges, "off",
    or "central" for one queue before all replicas; 0.2 s for a scheduler that can share, else off.
    guard, max_debt: as of `FairQueue.share`; by default a guard of 5 % and the least debt that
    keeps the bound (see `Exchange`).
    """

    replicas: Count
    router: str | None = None
    reach: tuple[tuple[str, _Part], ...] = ()
    exchange: float | str | None = None
    guard: _Guard | None = None
    max_debt: NotNegative | None = None

    def __post_init__(self) -> None:
        checked(ClusterSettings, {f.name: getattr(self, f.name) for f in fields(self)})
        exchange = self.exchange
        if exchange is None or exchange in _WORDS:
            return
        if not isinstance(exchange, float | int) or not 0 <= exchange < math.inf:
            raise FairlaneError(f"exchange must be seconds, off or central, not {exchange!r}")

    @property
    def is_central(self) -> bool:
        """Whether one queue stands before all replicas."""
        return self.exchange == "central"

    def every_s(self, policy: Policy[Any]) -> float | None:
        """Seconds between exchanges of replicas with such a policy; None where there are none."""
        if self.exchange is None:
            return EXCHANGE_S if policy.can_share and self.replicas > 1 else None
        return None if isinstance(self.exchange, str) else self.exchange

    def check(self, requests: Sequence[TracedRequest], policy: Policy[Any]) -> None:
        """Raise FairlaneError for what could not act. policy: as each replica has one."""
        make_router(self.router or ROUTER, 0)
        routing = {"router": self.router, "reach": self.reach or None}
        sharing = {"guard": self.guard, "max_debt": self.max_debt}
        if self.replicas == 1:
            alone = {**routing, "exchange": self.exchange, **sharing}
            _refuse(alone, "acts between replicas, and there is one")
        if self.is_central:
            _refuse(routing, "acts where requests are routed; one central queue is not")
        if self.every_s(policy) is None:
            _refuse(sharing, "acts where replicas exchange what they charged; these do not")
        elif not policy.can_share:
            raise FairlaneError("exchange: this scheduler keeps no charges to share; leave it out")
        if self.router == "prefix":
            check_prefixes(requests)
        self._check_reach(requests)

    def _check_reach(self, requests: Sequence[TracedRequest]) -> None:
        if self.reach and self.router == "sticky":
            raise FairlaneError("reach: router sticky keeps every client to one replica anyway")
        clients = {request.client for request in requests}
        for client, _ in self.reach:
            if client not in clients:
                raise FairlaneError(f"reach: client {client} sends nothing")


def cluster_settings(replicas: int | None, **options: Any) -> ClusterSettings | None:
    """The settings of a cluster; None for one server. Raises FairlaneError as these do.

    options: of `ClusterSettings`; without replicas none may be given.
    """
    if replicas is not None:
        return ClusterSettings(replicas=replicas, **options)
    given = {name: None if value == () else value for name, value in options.items()}
    _refuse(given, "acts between --replicas")
    return None


def _refuse(given: Mapping[str, Any], because: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise FairlaneError(f"{name.replace('_', '-')}: {because}; leave it out")
