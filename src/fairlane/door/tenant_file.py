"""The file of tenants (TOML): read strictly, changed in place, read anew when it changes.

    [tenants.acme]
    weight = 2.0
    requests_per_minute = 600
    keys = [{ sha256 = "9f86d08...", added = "2026-01-31" }]

`fairlane tenants` changes what it was asked to change, and nothing else of it (tenant_edit.py).
"""

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError, UnknownNameError
from fairlane.door.tenant_edit import edit, written
from fairlane.door.tenants import Key, Limits, Role, Tenant, TenantError, Tenants
from fairlane.files import atomic_write, locked, stamp_of

_LIMITS = tuple(limit.name for limit in fields(Limits))
_SETTINGS = ("weight", "parent", "role", "keys", *_LIMITS)
_KEY = tuple(part.name for part in fields(Key))
_HEADING = "# Tenants of a Fairlane server; see `fairlane tenants --help`.\n"
_NEW_MODE = 0o640  # not for all to read: it says who may come in


def read_tenants(path: Path) -> Tenants:
    """The tenants of a file. Raises FairlaneError, one line that names file and tenant."""
    return _parse(path, _read(path))


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise TenantError(
            f"{path}: no such file or directory; `fairlane tenants add` makes the file"
        ) from error
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise TenantError(f"{path}: cannot be read ({cause}); may this user read it?") from error
    except UnicodeDecodeError as error:
        raise TenantError(f"{path}: not TOML: {error}") from error


def _parse(path: Path, text: str) -> Tenants:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
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
            parent=table.get("parent"),
            role=_role(table.get("role", "client")),
            limits=parse_limits(table),
            keys=_keys(table.get("keys", [])),
        )
    except FairlaneError as error:
        raise TenantError(f"[tenants.{json.dumps(name, ensure_ascii=False)}] {error}") from error


def _role(value: Any) -> Role:
    try:
        return Role(value)
    except ValueError:
        raise UnknownNameError("role", str(value), [role.value for role in Role]) from None


def _keys(values: Any) -> tuple[Key, ...]:
    if not isinstance(values, list) or not all(
        isinstance(v, dict) and "sha256" in v for v in values
    ):
        raise TenantError('keys must be a list of { sha256 = "...", added = "..." }')
    for value in values:
        for part, given in value.items():
            if part not in _KEY:
                raise UnknownNameError("part of a key", part, _KEY)
            if isinstance(given, date):  # written without quotes
                value[part] = given.isoformat()
    return tuple(Key(**value) for value in values)


def change_tenants(path: Path, change: Callable[[Tenants], Tenants]) -> Tenants:
    """Replace the file's tenants by what `change` makes of them; two at once take turns.

    Of a file that is there nothing changes but what must; its owner and mode stay. A new one can be
    read by its owner and group. Raises FairlaneError and leaves the file where that cannot be.
    """
    with locked(path):
        text = _read(path) if path.exists() else None
        before = Tenants() if text is None else _parse(path, text)
        tenants = change(before)
        if text is None:
            new = _HEADING + written(tenants.values())
        else:
            new = _edited(path, text, before, tenants)
        if new != text:
            with atomic_write(path, mode=_NEW_MODE) as file:
                file.write(new)
    return tenants


def _edited(path: Path, text: str, before: Tenants, after: Tenants) -> str:
    """The text so changed that it says `after`; read back, because files are of many layouts."""
    try:
        new = edit(text, before, after)
        if _parse(path, new) == after:
            return new
        cause = "what comes out says something else"
    except FairlaneError as error:
        cause = str(error).removeprefix(f"{path}: ")
    except Exception as error:  # tomlkit's, and what its odder tables lack
        cause = f"{type(error).__name__}: {error}"
    raise TenantError(f"{path}: cannot be changed in place ({cause}); change it by hand")


class TenantStore:
    """The tenants of a file as they are now: `current()` looks whether the file has changed.

    A file that has become unreadable or wrong changes nothing: the last good tenants stay, and
    `problem` says what is wrong until it is mended. The first reading must succeed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        self._seen = stamp_of(self.path)
        self._tenants = read_tenants(path)

    def current(self) -> Tenants:
        """The tenants, read anew if the file was replaced or written. One stat otherwise."""
        stamp = stamp_of(self.path)
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._tenants = read_tenants(self.path)
                self.problem = ""
            except FairlaneError as error:
                self.problem = str(error)
        return self._tenants
