"""Who a request says it is from: keys, headers and models of the clients of a workload.

A clients file has one table per client of the workload, and "*" for those that it does not name:

    [clients.0]
    key_env = "ALICE_KEY"             # or key = "sk-...": sent as `Authorization: Bearer`
    [clients.1]
    headers = { X-Tenant = "bob" }    # for a gateway that names clients by a header
    model = "bobs-adapter"            # in place of the model that all others ask for
    user = "bob"                      # the OpenAI field; the client's name where nothing is said
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError

ANY = "*"
_FIELDS = ("key", "key_env", "headers", "model", "user")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110
_HTTP_OWN = ("connection", "content-length", "content-type", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the requests of one client carry.

    model: None for the server's own. headers: the key among them; never to be shown.
    """

    model: str | None
    user: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def identities(
    clients: Iterable[str],
    *,
    model: str | None = None,
    file: Path | None = None,
    client_model: str | None = None,
) -> dict[str, Identity]:
    """The identity of every client of the workload.

    file: a clients file; None gives each client its name as `user`. client_model: the model of
    each client, `{client}` in it standing for the name, as for servers with an adapter each.
    Raises FairlaneError, naming the file, for a client that the file leaves out.
    """
    tables = _read(file) if file is not None else {ANY: {}}
    found = {}
    for client in dict.fromkeys(clients):
        table = tables.get(client, tables.get(ANY))
        if table is None:
            raise FairlaneError(
                f'{file}: no table [clients.{client}]; add it, or [clients."{ANY}"] for all others'
            )
        own_model = client_model.replace("{client}", client) if client_model else model
        found[client] = Identity(
            model=table.get("model", own_model),
            user=table.get("user", client),
            headers=_headers(f"{file}: clients.{client}", table),
        )
    return found


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """The checked tables of a clients file, by client."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        cause = (error.strerror or "").lower()
        raise FairlaneError(f"{file}: cannot be read ({cause})") from error
    except ValueError as error:  # bad TOML, with its line, or bad UTF-8
        raise FairlaneError(f"{file}: not a TOML file: {error}") from error
    tables = content.get("clients")
    if set(content) != {"clients"} or not isinstance(tables, dict):
        raise FairlaneError(f"{file}: needs one table per client, such as [clients.0]; no others")
    for client, table in tables.items():
        _check(f"{file}: clients.{client}", table)
    return tables


def _check(where: str, table: Any) -> None:
    if not isinstance(table, dict):
        raise FairlaneError(f"{where}: must be a table with {', '.join(_FIELDS)}")
    for name, value in table.items():
        if name not in _FIELDS:
            raise FairlaneError(f"{where}: unknown field {name!r}; known: {', '.join(_FIELDS)}")
        if name == "headers":
            _check_headers(where, value)
        elif not _is_line(value) or not value:
            raise FairlaneError(f"{where}: {name} must be text on one line, not empty")
    if "key" in table and "key_env" in table:
        raise FairlaneError(f"{where}: give key or key_env, not both")
    names = {name.lower() for name in table.get("headers", {})}
    if "authorization" in names and ("key" in table or "key_env" in table):
        raise FairlaneError(f"{where}: give a key or the header Authorization, not both")


def _check_headers(where: str, headers: Any) -> None:
    if not isinstance(headers, dict) or not all(map(_is_line, headers.values())):
        raise FairlaneError(
            f'{where}: headers must be text on one line each, as {{ X-Tenant = "bob" }}'
        )
    for name in headers:
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _HTTP_OWN:
            raise FairlaneError(f"{where}: {name!r} is no header that a client may set")


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _headers(where: str, table: Mapping[str, Any]) -> dict[str, str]:
    """The headers of a client's requests, its key as a bearer token."""
    headers = dict(table.get("headers", {}))
    key = table.get("key")
    if "key_env" in table:
        key = os.environ.get(table["key_env"])
        if not key or not key.isprintable():
            name = table["key_env"]
            raise FairlaneError(f"{where}: the environment's {name} must be a key on one line")
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return headers
