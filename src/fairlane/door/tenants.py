"""Tenants: who may use a server, as which client, with what weight and within what limits.

Plain values without I/O; tenant_file.py reads and writes them. A tenant is a client of the
scheduler; with a parent it is a member of a group, and its path ("acme/eng/alice") is the name by
which the scheduler knows it. Groups are tenants too, with or without keys of their own.

API keys are random, 256 bits, so one SHA-256 hides them as well as a slow hash would: there is
nothing to guess. Keys that people think up are refused for that reason (guessing.py).

The type and range of each setting are declared at its field, and checked whenever one is made.
"""

import hmac
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache, lru_cache
from hashlib import sha256
from typing import Annotated, Any, get_type_hints

from pydantic import Field, Strict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from fairlane.core.errors import FairlaneError
from fairlane.door.guessing import LEAST_BITS, SHORTEST, looks_thought_up, too_short
from fairlane.usage.quotas import Quota

KEY_PREFIX = "fl-"
MAX_KEY_BYTES = 512  # a longer one is not hashed at all
MAX_NAME_LENGTH = 200
_LIMITS_KNOWN = 10_000  # different ones, whose quotas are kept at hand
_TOLD = 60  # characters of a wrong value that are shown

Count = Annotated[
    int | None, Strict(), Field(ge=1, le=10**12, description="a whole number above 0, up to 10**12")
]
Weight = Annotated[
    float,
    Strict(),
    Field(ge=1e-6, le=1e6, allow_inf_nan=False, description="a number above 0, 1e-6 to 1e6"),
]
Seconds = Annotated[
    float | None,
    Strict(),
    Field(gt=0, le=86400, allow_inf_nan=False, description="seconds, above 0 and up to 86400"),
]
Cost = Annotated[
    float | None,
    Strict(),
    Field(gt=0, le=1e15, allow_inf_nan=False, description="cost units, a number above 0"),
]
Text = Annotated[str, Strict(), Field(description="a text in quotes")]
OptionalText = Annotated[str | None, Strict(), Field(description="a text in quotes")]
Digest = Annotated[
    str,
    Strict(),
    Field(pattern="^[0-9a-f]{64}$", description="64 lower-case hexadecimal digits"),
]


class TenantError(FairlaneError):
    """Tenants that contradict each other, or a name, key or setting that cannot be."""


def _check(made: Any) -> None:
    """Raise TenantError unless each field is of the type and in the range that it declares."""
    for name, (adapter, wanted) in _declared(made.__class__).items():
        value = getattr(made, name)
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            shown = repr(value) if len(repr(value)) <= _TOLD else repr(value)[:_TOLD] + "..."
            raise TenantError(f"{name} must be {wanted}, not {shown}") from error


@cache
def _declared(kind: type) -> dict[str, tuple[TypeAdapter[Any], str]]:
    """Of each field that says what it wants: what checks it, and its words."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for told in getattr(hint, "__metadata__", ()):
            if isinstance(told, FieldInfo):
                found[name] = (TypeAdapter(hint), str(told.description))
    return found


class Role(Enum):
    """What the holder of a tenant's keys may do."""

    CLIENT = "client"  # send requests, as this tenant
    GATEWAY = "gateway"  # send requests for clients that it names in a header
    OPERATOR = "operator"  # see every tenant, and use the routes that control the server


@dataclass(frozen=True, slots=True)
class Limits:
    """What one tenant may do; None is no limit. The rates hold for all members of a group.

    requests_per_minute, tokens_per_minute: evenly refilled; a minute's worth may come at once.
        Tokens are those of prompts and outputs.
    max_queued: requests without a first token; beyond, they are turned away.
    max_running: requests inside the engine; beyond, they wait.
    max_wait_s: how long a request waits for its turn; then it is refused. A gateway's alone.
    tokens_per_day and so on: quotas, of days and months of UTC, which need [usage]; beyond a soft
        one the weight falls. All tokens count, cached ones too; cost: service, by the prices.
    """

    requests_per_minute: Count = None
    tokens_per_minute: Count = None
    max_queued: Count = None
    max_running: Count = None
    max_wait_s: Seconds = None
    tokens_per_day: Count = None
    tokens_per_month: Count = None
    cost_per_day: Cost = None
    cost_per_month: Cost = None
    soft_tokens_per_day: Count = None
    soft_tokens_per_month: Count = None
    soft_cost_per_day: Cost = None
    soft_cost_per_month: Cost = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def quotas(self) -> Sequence[Quota]:
        """Those that there are."""
        return _quotas(self)


QUOTAS = {
    Quota(unit, period, 0, soft).name: (unit, period, soft)
    for soft in (False, True)
    for unit in ("tokens", "cost")
    for period in ("day", "month")
}


@lru_cache(_LIMITS_KNOWN)
def _quotas(limits: Limits) -> Sequence[Quota]:
    return tuple(
        Quota(unit, period, limit, soft)
        for name, (unit, period, soft) in QUOTAS.items()
        if (limit := getattr(limits, name)) is not None
    )


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of which only the hash is known. `added` is a date, YYYY-MM-DD."""

    sha256: Digest
    added: Text = ""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def id(self) -> str:
        """A short name for it, safe to show."""
        return self.sha256[:10]


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant; see the module."""

    name: str
    weight: Weight = 1.0
    parent: OptionalText = None
    role: Role = Role.CLIENT
    limits: Limits = field(default_factory=Limits)
    keys: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        if "/" in self.name:
            raise TenantError("a name must not contain '/'; name the group as its parent")
        _check(self)


def check_name(name: str) -> None:
    """Raise TenantError unless `name` can name a client: printable, NFC, at most 200 characters."""
    if not name or len(name) > MAX_NAME_LENGTH:
        raise TenantError(f"a name must have 1 to {MAX_NAME_LENGTH} characters")
    if not name.isprintable() or name != name.strip():
        raise TenantError(f"{name!r} is not a name: it has blanks at its ends or unseen characters")
    if not unicodedata.is_normalized("NFC", name):
        raise TenantError(f"{name!r} can be written in two ways; write it in Unicode's form NFC")


def new_key() -> str:
    """A fresh API key: 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str, added: str = "") -> Key:
    """What is kept of an API key. Raises TenantError for one that could be guessed."""
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TenantError("a key must consist of ASCII characters without blanks")
    encoded = key.encode()
    if len(encoded) > MAX_KEY_BYTES or too_short(key):
        raise TenantError(
            f"a key must have {SHORTEST} to {MAX_KEY_BYTES} characters, enough for {LEAST_BITS} "
            "random bits; let `fairlane tenants add` make one"
        )
    if looks_thought_up(key):
        raise TenantError(
            "a key must be random, and this one looks as if it was thought up or put together; "
            "let `fairlane tenants add` make one, or `openssl rand -hex 32`"
        )
    return Key(sha256(encoded).hexdigest(), added)


def name_of(path: str) -> str:
    """The name of the client that the scheduler knows by this path; see Tenants.path."""
    return path.rpartition("/")[2].replace("%2F", "/").replace("%25", "%")


class Tenants(Mapping[str, Tenant]):
    """All tenants by name, consistent with each other. Raises TenantError where they are not."""

    def __init__(self, tenants: Mapping[str, Tenant] | None = None) -> None:
        self._by_name = dict(tenants or {})
        self._by_hash: dict[str, Tenant] = {}
        for tenant in self._by_name.values():
            for key in tenant.keys:
                owner = self._by_hash.setdefault(key.sha256, tenant)
                if owner is not tenant:
                    raise TenantError(f"{owner.name} and {tenant.name} have the same key {key.id}")
        self._paths = {name: self._path(name) for name in self._by_name}
        for tenant in self._by_name.values():
            self._check_group(tenant)
        self._limits = {self._paths[name]: tenant.limits for name, tenant in self.items()}
        self.with_quotas = [path for path, limits in self._limits.items() if limits.quotas]

    def __getitem__(self, name: str) -> Tenant:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, key: bytes) -> Tenant | None:
        """Whose API key this is. Takes the same time for every wrong key of a length."""
        if len(key) > MAX_KEY_BYTES:
            return None
        digest = sha256(key).hexdigest()
        tenant = self._by_hash.get(digest)
        # The look-up compares hashes of hashes, which say nothing of the key; the comparison that
        # decides takes constant time.
        known = "" if tenant is None else next(k.sha256 for k in tenant.keys if k.sha256 == digest)
        return tenant if hmac.compare_digest(digest, known or "0" * 64) else None

    def path(self, client: str) -> str:
        """The scheduler's name for a client: its groups and itself, with '/' between.

        Clients that are no tenants have no groups, whatever their names look like.
        """
        return self._paths.get(client) or client.replace("%", "%25").replace("/", "%2F")

    def weights(self) -> dict[str, float]:
        """The weight of every tenant and group, by path."""
        return {self._paths[name]: float(tenant.weight) for name, tenant in self.items()}

    def limits(self, path: str) -> Limits | None:
        """The limits of the tenant of that path, or None when it is no tenant."""
        return self._limits.get(path)

    def with_tenant(self, tenant: Tenant) -> "Tenants":
        """These and one more, or one changed."""
        return Tenants({**self._by_name, tenant.name: tenant})

    def without_key(self, key_id: str) -> "Tenants":
        """These without the key that is called so. Raises TenantError where there is none."""
        holders = [t for t in self.values() if any(key.id == key_id for key in t.keys)]
        if not holders:
            raise TenantError(f"no key is called {key_id}; see `fairlane tenants list`")
        rest = tuple(key for key in holders[0].keys if key.id != key_id)
        return self.with_tenant(replace(holders[0], keys=rest))

    def without_tenant(self, name: str) -> "Tenants":
        """These without one. Raises TenantError where there is none, or it still has members."""
        if name not in self:
            raise TenantError(f"no tenant is called {name!r}; see `fairlane tenants list`")
        members = [tenant.name for tenant in self.values() if tenant.parent == name]
        if members:
            raise TenantError(f"{name!r} has members: {', '.join(members)}; revoke them first")
        return Tenants({key: tenant for key, tenant in self.items() if key != name})

    def _path(self, name: str) -> str:
        names: list[str] = []
        step: str | None = name
        while step is not None:
            if step in names:
                raise TenantError(f"{name!r} is its own group: {' in '.join([*names, step])}")
            if step not in self._by_name:
                raise TenantError(f"the parent {step!r} of {names[-1]!r} is no tenant; add it")
            names.append(step)
            step = self._by_name[step].parent
        return "/".join(reversed([name.replace("%", "%25") for name in names]))

    def _check_group(self, tenant: Tenant) -> None:
        parent = None if tenant.parent is None else self._by_name[tenant.parent]
        if parent is None:
            return
        of_members = ("max_queued", "max_running", "max_wait_s")
        for name in of_members:
            if getattr(parent.limits, name) is not None:
                raise TenantError(f"{parent.name!r} is a group: give {name} to its members")
