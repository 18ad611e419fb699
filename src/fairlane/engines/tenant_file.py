"""The file of tenants (TOML): read strictly, changed atomically, read anew when it changes.

    [tenants.acme]
    weight = 2.0
    requests_per_minute = 600
    keys = [{ sha256 = "9f86d08...", added = "2026-01-31" }]

`fairlane tenants` writes it; comments in it are lost then, everything else is kept.
"""

import fcntl
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.engines.tenants import Key, Limits, Role, Tenant, TenantError, Tenants
from fairlane.files import atomic_write

_LIMITS = tuple(limit.name for limit in fields(Limits))
_SETTINGS = ("weight", "parent", "role", "keys", *_LIMITS)
_HEADING = "# Tenants of a Fairlane server; see `fairlane tenants --help`.\n"


def read_tenants(path: Path) -> Tenants:
    """The tenants of a file. Raises FairlaneError, one line that names file and tenant."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise TenantError(f"{path}: {cause}; `fairlane tenants add` makes the file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TenantError(f"{path}: not TOML: {error}") from error
    tables = document.pop("tenants", {})
    if document or not isinstance(tables, dict):
        raise TenantError(f"{path}: everything must be in tables called [tenants.NAME]")
    try:
        return Tenants({name: _tenant(name, table) for name, table in tables.items()})
    except FairlaneError as error:
        raise TenantError(f"{path}: {error}") from error


def parse_limits(table: Mapping[str, Any]) -> Limits:
    """Limits from a table that may hold other settings too."""
    return Limits(**{name: table[name] for name in _LIMITS if name in table})


def _tenant(name: str, table: Any) -> Tenant:
    try:
        if not isinstance(table, dict):
            raise TenantError("must be a table")
        for setting in table:
            if setting not in _SETTINGS:
                raise UnknownNameError("setting", setting, _SETTINGS)
        return Tenant(
            name,
            weight=table.get("weight", 1.0),
            parent=_text(table, "parent"),
            role=_role(table.get("role", "client")),
            limits=parse_limits(table),
            keys=_keys(table.get("keys", [])),
        )
    except FairlaneError as error:
        raise TenantError(f"[tenants.{json.dumps(name, ensure_ascii=False)}] {error}") from error


def _text(table: Mapping[str, Any], setting: str) -> str | None:
    value = table.get(setting)
    if value is not None and not isinstance(value, str):
        raise TenantError(f"{setting} must be a text in quotes, not {value!r}")
    return value


def _role(value: Any) -> Role:
    try:
        return Role(value)
    except ValueError:
        raise UnknownNameError("role", str(value), [role.value for role in Role]) from None


def _keys(values: Any) -> tuple[Key, ...]:
    try:
        return tuple(Key(str(v["sha256"]), str(v.get("added", ""))) for v in values)
    except (KeyError, TypeError, AttributeError):
        raise TenantError('keys must be a list of { sha256 = "...", added = "..." }') from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold off others who change the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def change_tenants(path: Path, change: Callable[[Tenants], Tenants]) -> Tenants:
    """Replace the file's tenants by what `change` makes of them; two at once take turns."""
    with _locked(path):
        tenants = change(read_tenants(path) if path.exists() else Tenants())
        with atomic_write(path) as file:
            file.write(_HEADING + "".join(map(_as_toml, tenants.values())))
    return tenants


def _as_toml(tenant: Tenant) -> str:
    lines = [f"\n[tenants.{_quoted(tenant.name)}]", f"weight = {float(tenant.weight)!r}"]
    if tenant.parent is not None:
        lines.append(f"parent = {_quoted(tenant.parent)}")
    if tenant.role is not Role.CLIENT:
        lines.append(f"role = {_quoted(tenant.role.value)}")
    limits = asdict(tenant.limits).items()
    lines += [f"{name} = {value}" for name, value in limits if value is not None]
    if tenant.keys:
        lines.append("keys = [")
        lines += [
            f"    {{ sha256 = {_quoted(key.sha256)}, added = {_quoted(key.added)} }},"
            for key in tenant.keys
        ]
        lines.append("]")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A TOML basic string; names are printable, so JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)


class TenantStore:
    """The tenants of a file as they are now: `current()` looks whether the file has changed.

    A file that has become unreadable or wrong changes nothing: the last good tenants stay, and
    `problem` says what is wrong until it is mended. The first reading must succeed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        self._seen = self._stamp()
        self._tenants = read_tenants(path)

    def current(self) -> Tenants:
        """The tenants, read anew if the file was replaced or written. One stat otherwise."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._tenants = read_tenants(self.path)
                self.problem = ""
            except FairlaneError as error:
                self.problem = str(error)
        return self._tenants

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
