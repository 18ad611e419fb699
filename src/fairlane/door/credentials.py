"""Who a request is from, by its headers alone. Bodies and URLs say nothing about identity.

In this order:
1. An API key, as `Authorization: Bearer KEY` or `x-api-key: KEY`. A wrong key is refused, never
   taken for no key. The key of a gateway may name the client in a header. On a server without a
   file of tenants there are no keys, and what is sent for one means nothing: clients of OpenAI's
   and Anthropic's APIs cannot but send something.
2. Without a key, and where that is configured: the LoRA adapter that the request asks for, which
   the engine's door reads (frontend.py).
3. Without either: the shared anonymous client, where there is one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import parse_qsl

from fairlane.door.admission import Caller, Refused
from fairlane.door.tenants import (
    MAX_KEY_BYTES,
    MAX_NAME_LENGTH,
    Key,
    Role,
    Tenant,
    TenantError,
    Tenants,
    check_name,
)

Headers = Iterable[tuple[bytes, bytes]]
_MOST_NAME_BYTES = 4 * MAX_NAME_LENGTH
_MOST_QUERY_PARTS = 100


@dataclass(frozen=True)
class IdentityRules:
    """How requests are told apart.

    anonymous: the client of requests without a key, or None to refuse them.
    adapters: whether requests without a key are told apart by their LoRA adapter.
    header: in which a gateway names the client, in lower case. keys: whether anybody has one.
    """

    anonymous: str | None
    adapters: bool = False
    header: str = "x-fairlane-client"
    keys: bool = True

    def identify(self, headers: Headers, tenants: Tenants) -> Caller:
        """The caller of a request. Its client is None where the adapter will tell.

        Raises Refused, and never repeats in its message what was sent.
        """
        found = _collect(headers, (b"authorization", b"x-api-key", self.header.encode()))
        key = _key(found[b"authorization"], found[b"x-api-key"]) if self.keys else None
        if key is None:
            return self._without_key(tenants)
        tenant = tenants.find(key)
        if tenant is None:
            if b"," in key:
                raise Refused(400, "repeated_header", _joined("API keys"))
            raise Refused(401, "invalid_api_key", "The API key is not known to this server.")
        if tenant.role is Role.GATEWAY:
            return Caller(tenants.path(_named(found[self.header.encode()], tenant)))
        return Caller(tenants.path(tenant.name), operator=tenant.role is Role.OPERATOR)

    def key_id(self, headers: Headers) -> str:
        """The id of the key that a request was identified by; "" without one."""
        found = _collect(headers, (b"authorization", b"x-api-key"))
        key = _key(found[b"authorization"], found[b"x-api-key"]) if self.keys else None
        return "" if key is None else Key(sha256(key).hexdigest()).id

    def by_adapter(self, adapter: str | None, tenants: Tenants) -> str:
        """The client of a request without a key that asks for `adapter`, or for none.

        Raises Refused where the name is that of a tenant who has keys, or of a group.
        """
        if adapter is None:
            return tenants.path(self._anonymous())
        tenant = tenants.get(adapter)
        if tenant is not None and (
            tenant.keys or any(t.parent == adapter for t in tenants.values())
        ):
            raise Refused(401, "missing_api_key", "This model needs its tenant's API key.")
        return tenants.path(adapter)

    def _without_key(self, tenants: Tenants) -> Caller:
        return Caller(None if self.adapters else tenants.path(self._anonymous()))

    def _anonymous(self) -> str:
        if self.anonymous is None:
            raise Refused(
                401, "missing_api_key", "Send your API key as 'Authorization: Bearer KEY'."
            )
        return self.anonymous


def key_in_url(query: bytes, tenants: Tenants) -> bool:
    """Whether a query string holds an API key of this server: it is in the logs then."""
    if len(query) < 32:
        return False
    parts = parse_qsl(query.decode("latin-1")[: 8 * MAX_KEY_BYTES], encoding="latin-1")
    values = [value.encode("latin-1", "replace") for _, value in parts[:_MOST_QUERY_PARTS]]
    return any(len(value) >= 32 and tenants.find(value) is not None for value in values)


def _collect(headers: Headers, names: tuple[bytes, ...]) -> dict[bytes, bytes | None]:
    """The headers of these names.

    Raises Refused when one is sent twice, or is written with '_', which some proxies take for '-':
    it would mean nothing here, and something to whoever checked it before.
    """
    found: dict[bytes, bytes | None] = dict.fromkeys(names)
    for sent, value in headers:
        name = sent.lower().replace(b"_", b"-")
        if name in found:
            if b"_" in sent:
                message = f"The header {name.decode()} must be written with '-', not with '_'."
                raise Refused(400, "misspelt_header", message)
            if found[name] is not None:
                raise Refused(400, "repeated_header", f"The header {name.decode()} is repeated.")
            found[name] = value
    return found


def _joined(what: str) -> str:
    return f"Several {what} came in one header, with commas between; send one, without a comma."


def _key(authorization: bytes | None, x_api_key: bytes | None) -> bytes | None:
    """The API key that was sent, in one way or in two that agree."""
    bearer = None
    if authorization is not None:
        scheme, _, rest = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not rest.strip():
            raise Refused(401, "invalid_api_key", "The Authorization header must be 'Bearer KEY'.")
        bearer = rest.strip()
    if bearer is not None and x_api_key is not None and bearer != x_api_key:
        raise Refused(400, "two_api_keys", "Two different API keys were sent; send one.")
    return bearer if bearer is not None else x_api_key


def _named(value: bytes | None, gateway: Tenant) -> str:
    """The client that a gateway names; the gateway itself when it names none."""
    if value is None:
        return gateway.name
    try:
        if len(value) > _MOST_NAME_BYTES:
            raise TenantError("too long")
        if b"," in value:  # a client's header and the gateway's own, joined on the way
            raise Refused(400, "repeated_header", _joined("clients"))
        name = value.decode("utf-8")
        check_name(name)
    except (UnicodeDecodeError, TenantError):
        raise Refused(
            400,
            "invalid_client",
            "The client's name must be 1 to 200 printable characters, UTF-8 in form NFC.",
        ) from None
    return name
