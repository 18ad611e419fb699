"""A hub on a server of Redis' kind (Redis 6 and later, Valkey): one script call an exchange.

All keys of a pool begin with `fairlane:{NAMESPACE:POOL}:`, so that they lie in one slot, and
vanish when nobody exchanged for a day.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fairlane.cluster.hub import MOST_CLIENTS, HubError, Pull, Push, Sum, new_name
from fairlane.cluster.limits import ALIVE_S, DAY_S, QUEUE_FULL, Ask, Verdict, Verdicts
from fairlane.core.buckets import Quota
from fairlane.core.errors import FairlaneError
from fairlane.core.types import Rejection

try:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as NoConnection
    from redis.exceptions import RedisError
except ImportError as error:
    raise FairlaneError(
        "a hub needs redis, which is not installed: pip install redis hiredis"
    ) from error

_EXCHANGE = Path(__file__).with_name("exchange.lua").read_text(encoding="utf-8")
_LIMIT = Path(__file__).with_name("limits.lua").read_text(encoding="utf-8")
_KEYS = ("state", "origins", "seen", "sums", "born", "changed")
_TIMEOUT_S = 2.0


class RedisHub:
    """A Hub; see the module.

    url: redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE], or rediss:// for TLS. password: one that
    is not in the URL. ca: a file of the certificates that the server's must be signed by; None for
    those of the system. timeout_s: for a connection, and for an answer. Raises FairlaneError for a
    URL that is none. Connects when first used.
    """

    def __init__(
        self,
        url: str,
        *,
        pool: str,
        namespace: str = "default",
        password: str | None = None,
        ca: str | None = None,
        most_clients: int = MOST_CLIENTS,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        more: dict[str, Any] = {} if password is None else {"password": password}
        if ca is not None:
            more["ssl_ca_certs"] = ca
        # One more try, for a connection that was closed while it was not used.
        retry = Retry(NoBackoff(), 1, supported_errors=(NoConnection,))
        try:
            self._client: Any = Redis.from_url(
                url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, retry=retry, **more
            )  # fmt: skip
        except ValueError as error:
            raise FairlaneError(f"not an address of a hub: {error}") from None
        told = self._client.connection_pool.connection_kwargs
        self._address = f"{told.get('host', 'localhost')}:{told.get('port', 6379)}"
        self._prefix = f"fairlane:{{{quote(namespace, safe='')}:{quote(pool, safe='')}}}:"
        self._most_clients = most_clients
        self._exchange = self._client.register_script(_EXCHANGE)
        self._limit = self._client.register_script(_LIMIT)

    async def exchange(self, push: Push) -> Pull:
        """Apply a push, once, and tell what changed."""
        era, knows = ("", 0) if push.since is None else push.since
        charges = {client: str(grains) for client, grains in push.charges.items()}
        arguments: list[Any] = [
            push.origin, push.seq, era, knows, new_name(), self._most_clients, ALIVE_S, DAY_S,
            _encoded(json.dumps(charges, ensure_ascii=False)),
        ]  # fmt: skip
        async with self._errors():
            answer = await self._exchange([self._prefix + key for key in _KEYS], arguments)
            return _pull(push.seq, answer)

    async def limit(self, ask: Ask) -> Verdicts:
        """Let requests in by limits that hold over all servers."""
        words = _Words(self._prefix)
        words.tell(ask)
        async with self._errors():
            servers, *found = await self._limit(list(words.keys), words.arguments)
            return Verdicts(int(servers), [_verdict(texts) for texts in found])

    async def post(self, origin: str, text: str, lives_s: float) -> None:
        """Tell the others of oneself."""
        everyone = self._prefix + "posting"
        async with self._errors(), self._client.pipeline() as all_at_once:
            all_at_once.set(self._post(origin), _encoded(text), px=max(1, round(lives_s * 1000)))
            all_at_once.sadd(everyone, _encoded(origin))
            all_at_once.expire(everyone, int(DAY_S))
            await all_at_once.execute()

    async def posts(self, most: int | None = None) -> Mapping[str, str]:
        """What members told of themselves, by origin."""
        everyone = self._prefix + "posting"
        async with self._errors():
            asks = self._client
            names = asks.smembers(everyone) if most is None else asks.srandmember(everyone, most)
            origins = sorted(_decoded(name) for name in await names)
            if not origins:
                return {}
            texts = await self._client.mget([self._post(origin) for origin in origins])
            found = dict(zip(origins, texts, strict=True))
            if gone := [_encoded(name) for name, text in found.items() if text is None]:
                await self._client.srem(everyone, *gone)
        return {name: _decoded(text) for name, text in found.items() if text is not None}

    async def close(self) -> None:
        """Let go of connections."""
        with suppress(RedisError, OSError):
            await self._client.aclose()

    def _post(self, origin: str) -> bytes:
        return _encoded(self._prefix + "post:" + origin)

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """What goes wrong as HubError, in one line and without a password."""
        try:
            yield
        except (RedisError, OSError) as error:
            cause = str(error).strip().partition("\n")[0] or type(error).__name__
            raise HubError(f"the hub at {self._address}: {cause}") from error
        except (ValueError, TypeError, IndexError) as error:
            raise HubError(
                f"the hub at {self._address} gave no answer of a hub: {error}"
            ) from error


def _pull(seq: int, answer: list[Any]) -> Pull:
    era, version, applied, members, *chunks = answer
    sums = {
        client: Sum(int(born), int(grains))
        for chunk in chunks
        for client, grains, born in zip(*json.loads(_decoded(chunk)), strict=True)
    }
    return Pull(seq, _decoded(era), int(version), int(applied), sums, int(members))


class _Words:
    """An Ask as the script of limits reads it: keys, and arguments that name them by place."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.keys: dict[bytes, int] = {}
        self.arguments: list[bytes | str | int | float] = []
        self._key("limits:seen")
        self._key("limits:taken")

    def tell(self, ask: Ask) -> None:
        """All of it."""
        self._say(ask.origin, ask.seq, ALIVE_S, DAY_S)
        self._say(len(ask.taken))
        for quota, amount in ask.taken.items():
            self._say(self._bucket(quota), quota.per_minute, amount)
        self._say(len(ask.waiting))
        for client, count in ask.waiting.items():
            self._say(self._waiting(client), count)
        self._say(len(ask.arrivals))
        for arrival in ask.arrivals:
            queue = self._waiting(arrival.client) if arrival.client else 0
            self._say(queue, arrival.most_waiting, len(arrival.quotas))
            for quota in arrival.quotas:
                self._say(self._bucket(quota), quota.kind, quota.per_minute)

    def _say(self, *words: str | float) -> None:
        self.arguments += words

    def _bucket(self, quota: Quota) -> int:
        return self._key(f"limits:{quota.kind}:{quota.path}")

    def _waiting(self, client: str) -> int:
        return self._key(f"limits:waiting:{client}")

    def _key(self, name: str) -> int:
        """Its place, counted from 1."""
        return self.keys.setdefault(_encoded(self._prefix + name), len(self.keys) + 1)


def _verdict(texts: list[bytes]) -> Verdict:
    reason, wait, *left = texts
    rejection = None
    if reason:
        name = _decoded(reason)
        rejection = Rejection(name, None if name == QUEUE_FULL else float(wait))
    return Verdict(rejection, tuple(float(amount) for amount in left))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # names are whatever clients are called


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")
