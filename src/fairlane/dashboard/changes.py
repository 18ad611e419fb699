"""Changes that operators make on the page: weights, limits and keys, in the file of tenants.

    {"do": "set", "client": PATH, "weight": 2.0, "limits": {"requests_per_minute": 10}}
    {"do": "add_key", "client": PATH}
    {"do": "revoke_key", "client": PATH, "key_id": ID}

A limit of null is taken away; what is not named stays. Tenants are added, and given roles and
groups, by `fairlane tenants` alone.

Each change is a line of JSON in the audit log: when, who, from where, what, before and after; of
keys their ids. It is written before the file is replaced, so nothing is changed that is not there;
a change that then failed has a second line.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.door.access import Access
from fairlane.door.admission import Refused
from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Limits, Tenant, Tenants, hash_key, name_of, new_key

_ASKS = {
    "set": frozenset({"weight", "limits"}),
    "add_key": frozenset[str](),
    "revoke_key": frozenset({"key_id"}),
}  # what comes with each, beside `do` and `client`
_LIMITS = tuple(limit.name for limit in fields(Limits))
_NEW_MODE = 0o640


@dataclass(frozen=True, slots=True)
class Who:
    """Who makes a change: the operator's path, the id of its key, and the address it comes from.

    forwarded: what a proxy, or whoever plays one, says of that.
    """

    operator: str
    key_id: str
    address: str
    forwarded: str = ""


class Changes:
    """Makes changes; see the module. audit: the name of the log."""

    def __init__(self, access: Access, audit: Path) -> None:
        self._access = access
        self._audit = audit

    def make(self, asked: Any, who: Who) -> dict[str, Any]:
        """What is answered. Blocks. Raises Refused for what cannot be, and then nothing changed."""
        do, client = _read(asked)
        store = self._access.store
        assert store is not None, "the configuration is refused without one"
        key = new_key()
        written: dict[str, Any] = {}

        def change(tenants: Tenants) -> Tenants:
            before = tenant_at(tenants, client)
            after = self._changed(before, asked, who, key)
            told = {"before": _told(before), "after": _told(after)}
            written.update(_line(do, client, who) | told)
            result = tenants.with_tenant(after)
            self._write(written)
            return result

        try:
            change_tenants(store.path, change)
        except FairlaneError as error:
            if written:
                self._write({**written, "failed": str(error)})
            raise Refused(400, "not_changed", f"Nothing was changed: {error}") from None
        return _answer(do, client, written, key, asked)

    # -- inside ------------------------------------------------------------------------------

    def _changed(self, tenant: Tenant, asked: Mapping[str, Any], who: Who, key: str) -> Tenant:
        """The tenant as it is to be. Raises FairlaneError, Refused."""
        if asked["do"] == "add_key":
            today = datetime.now(UTC).date().isoformat()
            return replace(tenant, keys=(*tenant.keys, hash_key(key, today)))
        if asked["do"] == "revoke_key":
            return _without(tenant, asked["key_id"], who)
        limits = asked.get("limits", {})
        self._check_effect(asked, limits)
        weight = asked.get("weight", tenant.weight)
        return replace(tenant, weight=weight, limits=replace(tenant.limits, **limits))

    def _check_effect(self, asked: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
        """Raise Refused for what would change nothing."""
        access = self._access
        if "weight" in asked and access.weightless:
            raise _bad(f"The scheduler {access.weightless} has no weights; take vtc or drr.")
        if limits.get("max_wait_s") is not None and not access.ends_waits:
            raise _bad("max_wait_s has no effect here: only a gateway ends waits.")

    def _write(self, line: Mapping[str, Any]) -> None:
        """Add a line to the log, and see it written. Raises Refused."""
        data = (json.dumps(line) + "\n").encode()
        try:
            self._audit.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._audit, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _NEW_MODE)
            try:
                os.write(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            cause = (error.strerror or str(error)).lower()
            message = f"Nothing was changed: the audit log cannot be written ({cause})."
            raise Refused(500, "no_audit", message) from None


def tenant_at(tenants: Tenants, path: str) -> Tenant:
    """The tenant of a path. Raises Refused where it is none."""
    tenant = tenants.get(name_of(path))
    if tenant is None or tenants.path(tenant.name) != path:
        raise Refused(
            404, "no_such_client",
            "The file of tenants has no such client; add it: `fairlane tenants add`.",
        )  # fmt: skip
    return tenant


def _read(asked: Any) -> tuple[str, str]:
    """What is to be done to whom; its parts are of the right kinds. Raises Refused."""
    if not isinstance(asked, dict) or asked.get("do") not in _ASKS:
        raise _bad(f"Send an object whose `do` is one of {', '.join(_ASKS)}.")
    do, client = str(asked["do"]), asked.get("client")
    unknown = asked.keys() - _ASKS[do] - {"do", "client"}
    if unknown:
        raise _bad(f"{do} takes {', '.join(sorted(_ASKS[do])) or 'nothing more'}.")
    if not isinstance(client, str):
        raise _bad("Name the client: `client`.")
    if do == "revoke_key" and not isinstance(asked.get("key_id"), str):
        raise _bad("Name the key: `key_id`.")
    limits = asked.get("limits", {})
    if not isinstance(limits, dict) or limits.keys() - set(_LIMITS):
        raise _bad(f"limits must be an object of these: {', '.join(_LIMITS)}.")
    if do == "set" and "weight" not in asked and not limits:
        raise _bad("Say what to set: weight, or limits.")
    return do, client


def _without(tenant: Tenant, key_id: str, who: Who) -> Tenant:
    keys = tuple(key for key in tenant.keys if key.id != key_id)
    if keys == tenant.keys:
        raise Refused(404, "no_such_key", "The client has no such key.")
    if key_id == who.key_id:
        raise _bad("This is the key that you use; revoke it by another, or `fairlane tenants`.")
    return replace(tenant, keys=keys)


def _line(do: str, client: str, who: Who) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": who.operator,
        "by_key": who.key_id,
        "address": who.address,
        "forwarded_for": who.forwarded,
        "do": do,
        "client": client,
    }


def _told(tenant: Tenant) -> dict[str, Any]:
    limits = {name: value for name, value in asdict(tenant.limits).items() if value is not None}
    return {"weight": tenant.weight, "limits": limits, "keys": [key.id for key in tenant.keys]}


def _answer(
    do: str, client: str, line: Mapping[str, Any], key: str, asked: Mapping[str, Any]
) -> dict[str, Any]:
    if do == "add_key":
        return {"key": key, "key_id": hash_key(key).id}
    if do == "revoke_key":
        return {"key_id": asked["key_id"]}
    return {"client": client, "weight": line["after"]["weight"], "limits": line["after"]["limits"]}


def _bad(message: str) -> Refused:
    return Refused(400, "not_changed", message)
