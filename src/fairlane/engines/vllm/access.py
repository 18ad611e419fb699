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

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fairlane.core.errors import UnknownNameError
from fairlane.engines.tenant_file import TenantStore, parse_limits
from fairlane.engines.tenants import Limits, Role, TenantError, Tenants, check_name
from fairlane.engines.vllm.credentials import IdentityRules

TABLES = ("tenants", "limits", "metrics")  # of the file, [identity] aside
IDENTITY = {"anonymous": str, "lora": bool, "header": str, "routes": list}
METRICS = {"top": int, "public": bool}
LIMITS = {limit.name: int for limit in fields(Limits)}
_HEADER_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_TAKEN_HEADERS = frozenset({"authorization", "x-api-key", "host", "content-type"})
_ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Access:
    """See the module. `store` is None without a file of tenants: then nobody has a key."""

    rules: IdentityRules = field(default_factory=lambda: IdentityRules(_ANONYMOUS))
    store: TenantStore | None = None
    limits: Limits | None = None
    routes: frozenset[str] = frozenset()
    top: int = 20
    public: bool = True
    expects_gateway: bool = False

    def tenants(self) -> Tenants:
        """The tenants as they are now."""
        return _NOBODY if self.store is None else self.store.current()

    @property
    def problem(self) -> str:
        """What is wrong with the file of tenants since it was last read well."""
        return "" if self.store is None else self.store.problem

    @property
    def warning(self) -> str:
        """What is configured and has no effect with the tenants as they are now."""
        gateways = any(tenant.role is Role.GATEWAY for tenant in self.tenants().values())
        if gateways or not self.expects_gateway:
            return ""
        return (
            f"[identity] header: {self.rules.header!r} is ignored, because no tenant is a gateway; "
            "give yours a key: `fairlane tenants add NAME --role gateway`"
        )

    @classmethod
    def parse(cls, document: Mapping[str, Any], folder: Path) -> "Access":
        """From the parsed file; names of files are relative to `folder`. Raises FairlaneError."""
        identity = _table(document, "identity", IDENTITY)
        limits = _table(document, "limits", LIMITS)
        metrics = _table(document, "metrics", METRICS)
        named = document.get("tenants")
        if named is not None and not isinstance(named, str):
            raise TenantError('tenants must be the name of a file in quotes: "tenants.toml"')
        if "header" in identity and named is None:
            raise TenantError(
                "[identity] header: a gateway needs a key; name a file of tenants (tenants = "
                '"tenants.toml") and add it there: `fairlane tenants add NAME --role gateway`'
            )
        store = None if named is None else TenantStore(folder / named)
        tenants = _NOBODY if store is None else store.current()
        if any(tenant.parent for tenant in tenants.values()) and not _groups(document):
            raise TenantError("[scheduler] groups must be true: there are tenants with a parent")
        top = metrics.get("top", 20)
        if not 0 <= top <= 1000:
            raise TenantError(f"[metrics] top must lie in 0..1000, not {top}")
        return cls(
            rules=_rules(identity, tenants, has_keys=store is not None),
            store=store,
            limits=parse_limits(limits) if limits else None,
            routes=frozenset(_routes(identity.get("routes", []))),
            top=top,
            public=metrics.get("public", store is None),
            expects_gateway="header" in identity,
        )


_NOBODY = Tenants()


def _table(
    document: Mapping[str, Any], name: str, settings: Mapping[str, type]
) -> Mapping[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, dict):
        raise TenantError(f"[{name}] must be a table")
    for setting, value in table.items():
        if setting not in settings:
            raise UnknownNameError(f"setting of [{name}]", setting, settings)
        if type(value) is not settings[setting]:
            wanted = settings[setting].__name__
            raise TenantError(f"[{name}] {setting} must be of type {wanted}, not {value!r}")
    return table


def _groups(document: Mapping[str, Any]) -> bool:
    scheduler = document.get("scheduler", {})
    return isinstance(scheduler, dict) and scheduler.get("groups") is True


def _rules(identity: Mapping[str, Any], tenants: Tenants, has_keys: bool) -> IdentityRules:
    anonymous = identity.get("anonymous", "" if has_keys else _ANONYMOUS) or None
    if anonymous is not None:
        check_name(anonymous)
        if anonymous in tenants and tenants[anonymous].keys:
            raise TenantError(
                f"[identity] anonymous: {anonymous!r} has API keys; whoever has none would be it"
            )
    header = identity.get("header", IdentityRules.header).lower()
    if not header or set(header) - _HEADER_CHARACTERS or header in _TAKEN_HEADERS:
        raise TenantError(f"[identity] header: {header!r} cannot be a gateway's header")
    return IdentityRules(anonymous, bool(identity.get("lora", False)), header)


def _routes(values: Any) -> list[str]:
    for value in values:
        if not isinstance(value, str) or not value.startswith("/"):
            raise TenantError(f"[identity] routes: {value!r} is no path; write '/v1/new'")
    return list(values)
