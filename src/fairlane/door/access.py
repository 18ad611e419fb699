"""Who may come in, as the configuration says: identity, tenants, limits, what is shown to whom.

Its part of the configuration (config.py reads the file, and the rest of it):

    tenants = "tenants.toml"        # beside this file; written by `fairlane tenants`

    [identity]
    anonymous = "anonymous"         # the client of requests without a key; "" refuses them
    lora = false                    # requests without a key are told apart by their adapter
    header = "x-fairlane-client"    # in which a gateway names the client
    routes = ["/v1/new"]            # more routes that clients may use

    [limits]                        # of every client that is no tenant
    requests_per_minute = 60

    [metrics]
    top = 20                        # clients that have metrics of their own
    public = false                  # show tenants to whoever asks, without an operator's key
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fairlane.core.errors import FairlaneError
from fairlane.core.options import Range
from fairlane.door.credentials import IdentityRules
from fairlane.door.tenant_file import TenantStore
from fairlane.door.tenants import Limits, Role, TenantError, Tenants, check_name
from fairlane.validation import checked

TABLES = ("identity", "limits", "metrics")  # of the file, beside the name of the tenants' file
_HEADER_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_TAKEN_HEADERS = frozenset({"authorization", "x-api-key", "host", "content-type"})
ANONYMOUS = "anonymous"
T = TypeVar("T")


@dataclass(frozen=True)
class _Identity:
    """[identity], as it is written."""

    anonymous: str | None = None
    lora: bool = False
    header: str | None = None
    routes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Metrics:
    """[metrics], as it is written."""

    top: Annotated[int, Range(ge=0, le=1000)] = 20
    public: bool | None = None


@dataclass(frozen=True)
class Access:
    """See the module. `store` is None without a file of tenants: then nobody has a key.

    weights: those of the configuration, beside the tenants' own. weightless: the scheduler's name
    if it has no weights. ends_waits: whether its host refuses who waited for max_wait_s.
    keeps_usage: whether there is a database, which quotas need.
    """

    rules: IdentityRules = field(default_factory=lambda: IdentityRules(ANONYMOUS, keys=False))
    store: TenantStore | None = None
    limits: Limits | None = None
    routes: frozenset[str] = frozenset()
    top: int = 20
    public: bool = True
    expects_gateway: bool = False
    weights: Mapping[str, float] = field(default_factory=dict)
    weightless: str = ""
    ends_waits: bool = False
    keeps_usage: bool = False

    def tenants(self) -> Tenants:
        """The tenants as they are now."""
        return _NOBODY if self.store is None else self.store.current()

    @property
    def problem(self) -> str:
        """What is wrong with the file of tenants since it was last read well."""
        return "" if self.store is None else self.store.problem

    @property
    def warning(self) -> str:
        """What is configured and has no effect with the tenants as they are now; "" for nothing."""
        gateways = any(tenant.role is Role.GATEWAY for tenant in self.tenants().values())
        found = []
        if self.expects_gateway and not gateways:
            found.append(
                f"[identity] header: {self.rules.header!r} is ignored, because no tenant is a "
                "gateway; give yours a key: `fairlane tenants add NAME --role gateway`"
            )
        if self.weightless and self.weighted():
            found.append(
                f"the weight of {self.weighted()} is ignored: the scheduler {self.weightless} has "
                "no weights; take vtc or drr"
            )
        if not self.ends_waits and (waiting := self._limited_wait()):
            found.append(
                f"max_wait_s of {waiting} is ignored: requests wait in the engine here, and only a "
                "gateway (fairlane gateway) ends that"
            )
        if (who := self.quota()) and not self.keeps_usage:
            found.append(f"the quota of {who} is ignored: quotas need [usage]")
        elif (who := self.quota(soft=True)) and self.weightless:
            found.append(
                f"the soft quota of {who} is ignored: the scheduler {self.weightless} has no "
                "weights; take vtc or drr"
            )
        return "; ".join(found)

    def quota(self, *, soft: bool = False) -> str:
        """Whose quota there is, or soft quota; "" for nobody's."""
        everyone = [("[limits]", self.limits or Limits())]
        everyone += [(tenant.name, tenant.limits) for tenant in self.tenants().values()]
        return next((n for n, li in everyone if any(q.soft >= soft for q in li.quotas)), "")

    def _limited_wait(self) -> str:
        """Whose max_wait_s there is, "" for nobody's."""
        if self.limits is not None and self.limits.max_wait_s is not None:
            return "[limits]"
        found = (t.name for t in self.tenants().values() if t.limits.max_wait_s is not None)
        return next(found, "")

    def weighted(self) -> str:
        """The first client or group with a weight other than 1, "" where there is none."""
        weights = {**self.tenants().weights(), **self.weights}
        return next((path for path, weight in weights.items() if weight != 1), "")

    @classmethod
    def parse(
        cls,
        document: Mapping[str, Any],
        folder: Path,
        *,
        weights: Mapping[str, float] | None = None,
        weightless: str = "",
        ends_waits: bool = False,
        keeps_usage: bool = False,
    ) -> "Access":
        """From the parsed file; names of files are relative to `folder`. Raises FairlaneError."""
        identity: _Identity = section(document, "identity", _Identity)
        limits: Limits = section(document, "limits", Limits)
        metrics: _Metrics = section(document, "metrics", _Metrics)
        named = document.get("tenants")
        if named is not None and not isinstance(named, str):
            raise TenantError('tenants must be the name of a file in quotes: "tenants.toml"')
        if identity.header is not None and named is None:
            raise TenantError(
                "[identity] header: a gateway needs a key; name a file of tenants (tenants = "
                '"tenants.toml") and add it there: `fairlane tenants add NAME --role gateway`'
            )
        store = None if named is None else TenantStore(folder / named)
        tenants = _NOBODY if store is None else store.current()
        if any(tenant.parent for tenant in tenants.values()) and not _groups(document):
            raise TenantError("[scheduler] groups must be true: there are tenants with a parent")
        return cls(
            rules=_rules(identity, tenants, has_keys=store is not None),
            store=store,
            limits=None if limits == Limits() else limits,
            routes=frozenset(_routes(identity.routes)),
            top=metrics.top,
            public=store is None if metrics.public is None else metrics.public,
            expects_gateway=identity.header is not None,
            weights=weights or {},
            weightless=weightless,
            ends_waits=ends_waits,
            keeps_usage=keeps_usage,
        )


_NOBODY = Tenants()


def section(document: Mapping[str, Any], name: str, kind: Callable[..., T]) -> T:
    """A table of the file as `kind`, which declares its keys. Raises FairlaneError, naming both."""
    try:
        return kind(**checked(kind, table(document, name), what="key"))
    except FairlaneError as error:
        raise TenantError(f"[{name}] {error}") from None


def table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of the file, empty where it is not there. Raises FairlaneError for anything else."""
    found = document.get(name, {})
    if not isinstance(found, dict):
        raise FairlaneError(f"must be a table, not {found!r}")
    return found


def _groups(document: Mapping[str, Any]) -> bool:
    scheduler = document.get("scheduler", {})
    return isinstance(scheduler, dict) and scheduler.get("groups") is True


def _rules(identity: _Identity, tenants: Tenants, has_keys: bool) -> IdentityRules:
    default = "" if has_keys else ANONYMOUS
    anonymous = (default if identity.anonymous is None else identity.anonymous) or None
    if anonymous is not None:
        check_name(anonymous)
        if anonymous in tenants and tenants[anonymous].keys:
            raise TenantError(
                f"[identity] anonymous: {anonymous!r} has API keys; whoever has none would be it"
            )
    header = IdentityRules.header if identity.header is None else identity.header.lower()
    if not header or set(header) - _HEADER_CHARACTERS or header in _TAKEN_HEADERS:
        raise TenantError(f"[identity] header: {header!r} cannot be a gateway's header")
    return IdentityRules(anonymous, identity.lora, header, keys=has_keys)


def _routes(values: list[str]) -> list[str]:
    for value in values:
        if not value.startswith("/"):
            raise TenantError(f"[identity] routes: {value!r} is no path; write '/v1/new'")
    return values
