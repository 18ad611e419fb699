"""The configuration of the gateway: what door/config.py and door/access.py describe, and

    [upstreams.big]
    url = "http://127.0.0.1:8001"   # with or without /v1
    models = ["llama"]              # those that it serves; it is asked where they are left out
    weight = 2.0                    # how much work it gets, relative to others
    key_env = "BIG_KEY"             # the environment's variable with the key that it wants
    ca = "ca.pem"                   # certificates to trust, for https; beside this file
    verify = true                   # look at its certificate
    silence_s = 600.0               # how long it may say nothing to a request
    client_header = "x-fairlane-client"     # in which it is told whose request it is, if at all
    window = 64                     # requests that it gets at once; learned where it is left out,
    least_window = 1                # between these
    greatest_window = 1024

    [gateway]
    max_body_bytes = 33554432
    comment_s = 10.0                # how often a stream that waits for its turn hears so
    max_wait_s = 240.0              # for its turn, of a request that is not streamed
    tries = 3                       # how often a request is sent, at most, while nothing came back
    sticky = "session"              # or "prefix": requests that go to one upstream; sessions.py
    session_header = "x-session-id"

    [routes]                        # what has no tokens counts so many input tokens, and a second
    "/v1/images/generations" = { request = 1000 }       # of audio so many where the engine says how
    "/v1/audio/transcriptions" = { second = 50 }        # many; other routes may be added

Every mistake is one line that names file, section and key.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from fairlane.addresses import server_url
from fairlane.core.errors import FairlaneError
from fairlane.core.options import Count, Positive, Weight
from fairlane.door.config import Configuration, Scheduling, read_table
from fairlane.gateway.app import RESERVED
from fairlane.gateway.body import ROUTES, Dialect, Price, Route
from fairlane.gateway.fleet import UpstreamPlan
from fairlane.gateway.relay import Patience
from fairlane.gateway.sessions import Rule, Sticky
from fairlane.gateway.upstream import Address
from fairlane.gateway.window import Bounds
from fairlane.validation import checked

_HEADER_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_TAKEN_HEADERS = frozenset({"", "authorization", "x-api-key", "host", "content-type", "cookie"})


@dataclass(frozen=True, slots=True)
class UpstreamSection:
    """[upstreams.NAME]: see the module."""

    url: str
    models: list[str] | None = None
    weight: Weight = 1.0
    key_env: str | None = None
    ca: str | None = None
    verify: bool = True
    silence_s: Positive = 600.0
    client_header: str = ""
    window: Count | None = None
    least_window: Count | None = None
    greatest_window: Count | None = None

    def plan(self, name: str, folder: Path) -> UpstreamPlan:
        """What it describes. Raises FairlaneError."""
        url = server_url(self.url, "an upstream", "name a variable of the environment by key_env")
        secure = url.startswith("https:")
        if not secure and (self.ca is not None or not self.verify):
            raise FairlaneError("ca and verify are for https: remove them")
        if self.models is not None and not self.models:
            raise FairlaneError("models must name one at least; left out, the upstream is asked")
        ca = None if self.ca is None else folder / self.ca
        if ca is not None and not ca.is_file():
            raise FairlaneError(f"ca: there is no file {ca}")
        address = Address(
            url,
            key=self._key(),
            ca=None if ca is None else str(ca),
            verify=self.verify,
            silence_s=self.silence_s,
            client_header=self.client_header and _header(self.client_header, "client_header"),
        )
        return UpstreamPlan(name, address, self.models, self.weight, self._bounds())

    def _key(self) -> str | None:
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "")
        if not key:
            raise FairlaneError(f"key_env: the environment has no {self.key_env}")
        if not key.isprintable() or not key.isascii():
            raise FairlaneError(f"key_env: {self.key_env} holds no key: unprintable characters")
        return key

    def _bounds(self) -> Bounds:
        if self.window is not None:
            if self.least_window is not None or self.greatest_window is not None:
                raise FairlaneError("window is fixed; remove least_window and greatest_window")
            return Bounds.fixed(self.window)
        bounds = Bounds()
        least = self.least_window or bounds.least
        greatest = self.greatest_window or bounds.greatest
        if least > greatest:
            raise FairlaneError("least_window must not be above greatest_window")
        return replace(
            bounds, least=least, greatest=greatest, start=min(max(bounds.start, least), greatest)
        )


@dataclass(frozen=True, slots=True)
class GatewaySection:
    """[gateway]: see the module."""

    max_body_bytes: Count = 32 << 20
    comment_s: Positive = 10.0
    max_wait_s: Positive = 240.0
    tries: Count = 3
    sticky: Rule = "none"
    session_header: str | None = None

    def __post_init__(self) -> None:
        if self.session_header is not None and self.sticky != "session":
            raise FairlaneError('session_header is for sticky = "session"')

    @property
    def patience(self) -> Patience:
        """What waiting is like."""
        return Patience(self.comment_s, self.tries)

    @property
    def stickiness(self) -> Sticky:
        """Which requests go to the same upstream."""
        if self.session_header is None:
            return Sticky(self.sticky)
        return Sticky(self.sticky, _header(self.session_header, "session_header"))


@dataclass(frozen=True, slots=True)
class GatewayConfig(Configuration):
    """A configuration of the gateway."""

    SECTIONS: ClassVar[tuple[str, ...]] = (
        *Configuration.SECTIONS, "upstreams", "gateway", "routes",
    )  # fmt: skip
    ENDS_WAITS: ClassVar[bool] = True
    HAS_UPSTREAMS: ClassVar[bool] = True
    upstreams: Sequence[UpstreamPlan] = ()
    named: Sequence[UpstreamPlan] = ()  # those of them that the command line names
    gateway: GatewaySection = field(default_factory=GatewaySection)
    routes: Mapping[str, Route] = field(default_factory=lambda: ROUTES)

    @classmethod
    def _more(cls, document: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        if document.get("identity", {}).get("lora"):
            raise FairlaneError("[identity] lora: the gateway tells clients apart by keys alone")
        if document.get("identity", {}).get("routes"):
            raise FairlaneError("[identity] routes: add them under [routes], with what they count")
        upstreams = read_table(
            document,
            "upstreams",
            lambda tables: [_upstream(n, t, folder) for n, t in tables.items()],
        )
        gateway = read_table(
            document, "gateway", lambda table: GatewaySection(**checked(GatewaySection, table))
        )
        gateway.stickiness  # noqa: B018 - names of headers are checked
        routes = {**ROUTES, **read_table(document, "routes", _routes)}
        return {"upstreams": upstreams, "gateway": gateway, "routes": routes}

    def with_scheduler(self, name: str) -> "GatewayConfig":
        """With another scheduler, whose options are its defaults. Raises FairlaneError."""
        scheduler = Scheduling(name, self.scheduler.groups)
        access = replace(self.access, weightless=scheduler.weightless)
        changed = replace(self, scheduler=scheduler, access=access)
        changed.check_scheduler()
        return changed

    def with_upstreams(self, urls: Sequence[str]) -> "GatewayConfig":
        """And these, each named by its address."""
        more = [UpstreamSection(url).plan(url, Path()) for url in urls]
        names = [plan.name for plan in (*self.upstreams, *more)]
        for name in names:
            if names.count(name) > 1:
                raise FairlaneError(f"the upstream {name} is there twice")
        return replace(self, upstreams=(*self.upstreams, *more), named=more)


def _header(name: str, key: str) -> str:
    """A header's name, in lower case. Raises FairlaneError for one that cannot be one."""
    lower = name.lower()
    if set(lower) - _HEADER_CHARACTERS or lower in _TAKEN_HEADERS:
        raise FairlaneError(f"{key}: {name!r} cannot be a header of yours")
    return lower


def _routes(tables: Mapping[str, Any]) -> Mapping[str, Route]:
    found = {}
    for path, table in tables.items():
        try:
            if not path.startswith("/"):
                raise FairlaneError("a route begins with '/': \"/v1/audio/speech\"")
            if path in RESERVED or path.startswith("/fairlane"):
                raise FairlaneError("the gateway answers this route itself")
            if not isinstance(table, Mapping):
                raise FairlaneError("must be a table: { request = 1000 }")
            known = ROUTES.get(path, Route(Dialect.MEDIA))
            if known.dialect is not Dialect.MEDIA:
                raise FairlaneError("the engine tells its tokens; it has no price of its own")
            found[path] = Route(Dialect.MEDIA, Price(**checked(Price, table, what="key")))
        except FairlaneError as error:
            raise FairlaneError(f"{path}: {error}") from None
    return found


def _upstream(name: str, table: Any, folder: Path) -> UpstreamPlan:
    try:
        if not isinstance(table, Mapping):
            raise FairlaneError("must be a table")
        given = checked(UpstreamSection, table, what="key")
        if "url" not in given:
            raise FairlaneError('url is missing: "http://127.0.0.1:8001"')
        return UpstreamSection(**given).plan(name, folder)
    except FairlaneError as error:
        raise FairlaneError(f"{name}: {error}") from None
