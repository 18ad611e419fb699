"""The server that load is sent to: its address, what it serves, how it counts words.

The HTTP client is aiohttp: its parser is C, and a streamed token costs it a third (100 streams) to
a fifth (400) of what it costs httpx, so that one core follows several times as many streams.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from fairlane.addresses import server_url
from fairlane.core.errors import FairlaneError
from fairlane.loadgen.clients import Identity
from fairlane.loadgen.errors import excerpt, is_error, read_error
from fairlane.loadgen.prompts import WORD, MakePrompt, added_tokens, word_prompts

IDLE_S = 1.0  # below what servers keep an idle connection for, so that none is closed under us
ASK_TIMEOUT_S = 60
MOST_FILES = 1 << 16


class ServerError(FairlaneError):
    """A server that cannot be measured; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server. url: without `/v1`."""

    url: str

    @classmethod
    def at(cls, url: str) -> "Server":
        """The server at an address such as http://127.0.0.1:8000, with or without `/v1`.

        Raises FairlaneError for what is no such address, or one that holds a password.
        """
        return cls(server_url(url, "--server", "put keys in a file for --clients"))

    @property
    def completions(self) -> str:
        """Where requests go."""
        return f"{self.url}/v1/completions"

    async def model(
        self, http: aiohttp.ClientSession, headers: Mapping[str, str], wanted: str | None
    ) -> str:
        """The model `wanted`, or the first that the server lists.

        Asks the server in any case, so that one that is not there is noticed before load is sent.
        Raises ServerError where there is no server, or none is wanted and it lists none.
        """
        models = http.get(f"{self.url}/v1/models", headers=headers, allow_redirects=False)
        status, content = await self._ask(models)
        if wanted is not None:
            return wanted
        try:
            name = _json(status, content)["data"][0]["id"]
        except (LookupError, TypeError):
            name = None
        except ValueError as error:
            raise ServerError(f"{self.url} lists no models ({error}); use --model") from None
        if not isinstance(name, str):
            raise ServerError(f"{self.url} lists no models; name one with --model")
        return name

    async def words(self, http: aiohttp.ClientSession, client: Identity) -> MakePrompt:
        """Prompts of words, by how many tokens the server counts in two of them.

        Raises ServerError, and FairlaneError where words do not give exact lengths.
        """
        counts = []
        for number in (1, 11):
            request = {"model": client.model, "prompt": WORD * number, "max_tokens": 1}
            post = http.post(
                self.completions, json=request, headers=client.headers, allow_redirects=False
            )
            try:
                counts.append(int(_json(*await self._ask(post))["usage"]["prompt_tokens"]))
            except (LookupError, TypeError, ValueError) as error:
                raise ServerError(f"{self.url} does not count prompt tokens ({error})") from None
        return word_prompts(added_tokens(*counts))

    async def _ask(self, request: Any) -> tuple[int, bytes]:
        """(status, body) of the answer to a request. Raises ServerError where there is none."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S), request as response:
                where = redirected_to(response)
                if where:
                    raise ServerError(f"{self.url} sends on to {where}: give --server that address")
                return response.status, await response.read()
        except TimeoutError:
            raise ServerError(f"{self.url} does not answer within {ASK_TIMEOUT_S} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServerError(f"{self.url} cannot be reached ({excerpt(error)})") from error


def _json(status: int, content: bytes) -> Any:
    """What an answer holds. Raises ValueError for an error and for what is not JSON."""
    said = json.loads(content) if status == 200 else None
    if status != 200 or is_error(said):
        code, message, _ = read_error(content)
        raise ValueError(": ".join(filter(None, (str(status), code, message))))
    return said


def redirected_to(response: aiohttp.ClientResponse) -> str:
    """Where a server sends its clients on to, which is never followed; "" where it does not."""
    return excerpt(response.headers.get("Location", "")) if 300 <= response.status < 400 else ""


def open_session() -> aiohttp.ClientSession:
    """An HTTP client without limits on connections, times or compression of its own."""
    _allow_many_files()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
        headers={"Accept-Encoding": "identity", "Content-Type": "application/json"},
    )


def _allow_many_files() -> None:
    """Raise this process's own limit of open files: each request under way holds a connection."""
    if sys.platform == "win32":  # has none
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
