"""Tenants: who may use a server, as which client, with what weight and within what limits.

Plain values without I/O; tenant_file.py reads and writes them. A tenant is a client of the
scheduler; with a parent it is a member of a group, and its path ("acme/eng/alice") is the name by
which the scheduler knows it. Groups are tenants too, with or without keys of their own.

API keys are random, 256 bits, so one SHA-256 hides them as well as a slow hash would: there is
nothing to guess. Keys that people think up are refused for that reason.
"""

import hmac
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256

from fairlane.core.errors import FairlaneError

KEY_PREFIX = "fl-"
MAX_KEY_BYTES = 512  # a longer one is not hashed at all
MAX_NAME_LENGTH = 200
_SHORTEST_KEY = 32  # of a key that was made elsewhere


class TenantError(FairlaneError):
    """Tenants that contradict each other, or a name, key or setting that cannot be."""


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
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_queued: int | None = None
    max_running: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise TenantError(f"{name} must be a whole number above 0, not {value!r}")


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of which only the hash is known. `added` is a date, YYYY-MM-DD."""

    sha256: str
    added: str = ""

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise TenantError("sha256 must be 64 lower-case hexadecimal digits")

    @property
    def id(self) -> str:
        """A short name for it, safe to show."""
        return self.sha256[:10]


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant; see the module."""

    name: str
    weight: float = 1.0
    parent: str | None = None
    role: Role = Role.CLIENT
    limits: Limits = field(default_factory=Limits)
    keys: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        if "/" in self.name:
            raise TenantError("a name must not contain '/'; name the group as its parent")
        if type(self.weight) not in (int, float) or not 0 < self.weight < float("inf"):
            raise TenantError(f"weight must be a number above 0, not {self.weight!r}")


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
    encoded = key.encode()
    if len(key) < _SHORTEST_KEY or len(set(key)) < 12 or len(encoded) > MAX_KEY_BYTES:
        raise TenantError(
            f"a key must be random and have {_SHORTEST_KEY} to {MAX_KEY_BYTES} characters; "
            "let `fairlane tenants add` make one"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TenantError("a key must consist of ASCII characters without blanks")
    return Key(sha256(encoded).hexdigest(), added)


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
        if parent is not None and (parent.limits.max_queued or parent.limits.max_running):
            raise TenantError(
                f"{parent.name!r} is a group: give max_queued and max_running to its members"
            )
