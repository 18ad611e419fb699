"""Changing the file of tenants in place: comments, order and layout stay as somebody wrote them.

`written` says how a tenant is written first; `edit` changes a text that is there, by tomlkit.
Whoever calls it reads the result back: no layout is taken on trust.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import tomlkit
from tomlkit.container import OutOfOrderTableProxy
from tomlkit.items import AoT, InlineTable, Table, Whitespace

from fairlane.door.tenants import Key, Role, Tenant

_INLINE = re.compile(r"^\s*tenants\s*=", re.MULTILINE)


def written(tenants: Iterable[Tenant]) -> str:
    """Tenants as they are written first, each as a table of its own after an empty line."""
    return "".join(
        f"\n[tenants.{_quoted(tenant.name)}]\n"
        + "".join(f"{name} = {value}\n" for name, value in _settings(tenant).items())
        for tenant in tenants
    )


def edit(text: str, before: Mapping[str, Tenant], after: Mapping[str, Tenant]) -> str:
    """A file's text, which says `before`, so changed that it says `after`."""
    changed = [name for name in before if before[name] != after.get(name)]
    added = [tenant for name, tenant in after.items() if name not in before]
    windows = 0 < text.count("\n") == text.count("\r\n")
    if text and not text.endswith("\n") and (changed or added):
        text += "\n"
    if changed or _INLINE.search(text):  # tomlkit takes seconds for 10,000 tenants
        document = tomlkit.parse(text)
        for name in changed:
            if name in after:
                document = _change(document, before[name], after[name])
            else:
                _remove(document, name)
        tables: Any = document.get("tenants", {})
        if isinstance(tables, InlineTable):
            for tenant in added:
                tables.append(tenant.name, _inline(_settings(tenant)))
            added = []
        text = document.as_string()
    text += written(added)
    return re.sub("(?<!\r)\n", "\r\n", text) if windows else text


def _settings(tenant: Tenant) -> dict[str, str]:
    """What is not as by default, and the weight: values as TOML."""
    found = {"weight": repr(float(tenant.weight))}
    if tenant.parent is not None:
        found["parent"] = _quoted(tenant.parent)
    if tenant.role is not Role.CLIENT:
        found["role"] = _quoted(tenant.role.value)
    limits = asdict(tenant.limits).items()
    found |= {name: str(value) for name, value in limits if value is not None}
    if tenant.keys:
        found["keys"] = "".join(["[\n", *(f"    {_key(key)},\n" for key in tenant.keys), "]"])
    return found


def _key(key: Key) -> str:
    return f"{{ sha256 = {_quoted(key.sha256)}, added = {_quoted(key.added)} }}"


def _quoted(text: str) -> str:
    """A TOML basic string; names are printable, so JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _inline(settings: Mapping[str, str]) -> InlineTable:
    table = tomlkit.inline_table()
    for name, value in settings.items():
        table.append(name, tomlkit.value(value))
    return table


def _change(document: Any, before: Tenant, after: Tenant) -> Any:
    """Change one tenant's table, of whatever kind it is; the document, parsed anew if need be."""
    old, new = _settings(before), _settings(after)
    for name in sorted({**old, **new}, key="keys".__eq__):  # the keys last
        if old.get(name) == new.get(name):
            continue
        table = document["tenants"][after.name]
        if name == "keys" and "keys" in table:
            _change_keys(table, before.keys, after.keys)
        elif name in new:
            _set(table, name, tomlkit.value(new[name]))
        else:
            del table[name]
        if isinstance(table, OutOfOrderTableProxy):  # loses count of itself when it is changed
            document = tomlkit.parse(document.as_string())
    return document


def _set(table: Any, name: str, value: Any) -> None:
    """Change a setting, or add it below the others, above what belongs to the next table."""
    if name in table or not isinstance(table, Table):
        table[name] = value
        return
    below = _lift(table)
    table.append(name, value)
    table.value.body.extend(below)


def _lift(table: Table) -> list[Any]:
    """Take away the comments and empty lines below a table's last setting."""
    lines = table.value.body
    below: list[Any] = []
    while lines and lines[-1][0] is None:
        below.insert(0, lines.pop())
    return below


def _change_keys(table: Any, before: tuple[Key, ...], after: tuple[Key, ...]) -> None:
    """Add to an array, or an array of tables, what is new, and then take out what is gone."""
    entries = table["keys"]
    for key in after:
        if key in before:
            continue
        if isinstance(entries, AoT):
            moved = _lift(entries[-1]) if entries else []
            entries.append(tomlkit.item(asdict(key)))
            entries[-1].value.body.extend(moved)
        else:
            entries.append(tomlkit.value(_key(key)))
    for i in reversed(range(len(before))):
        if before[i] not in after:
            below = _below(entries[i])
            del entries[i]
            if below and i:
                entries[i - 1].value.body.append((None, Whitespace(below)))
            elif below:
                lines = table.value.body
                at = next(j for j, (_, item) in enumerate(lines) if item is entries)
                lines.insert(at, (None, Whitespace(below)))  # nothing is looked up here any more


def _remove(document: tomlkit.TOMLDocument, name: str) -> None:
    """Take out a tenant, wherever it is told of, and leave what stands between it and the next."""
    parts: list[Any] = [v for k, v in document.body if k is not None and k.key == "tenants"]
    for part in parts:
        if not isinstance(part, Table):
            del part[name]
        elif name in part:
            lines = part.value.body
            at = next(i for i, (key, _) in enumerate(lines) if key is not None and key.key == name)
            below = _below(lines[at][1])
            del part[name]
            lines[at] = (None, Whitespace(below))


def _below(item: Any) -> str:
    """The comments and empty lines below a table's last setting: tomlkit counts them as its own."""
    if isinstance(item, AoT):
        item = item.body[-1]
    if not isinstance(item, Table) or isinstance(item, InlineTable):
        return ""
    found = ""
    for key, line in reversed(item.value.body):
        if key is not None:
            return _below(line) + found
        found = line.as_string() + found
    return found
