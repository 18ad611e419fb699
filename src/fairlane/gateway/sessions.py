"""Which requests had better go to the same upstream, whose prefix cache knows what they share."""

from dataclasses import dataclass
from typing import Literal

from fairlane.gateway.body import Asked
from fairlane.gateway.http_client import Headers

Rule = Literal["none", "session", "prefix"]


@dataclass(frozen=True, slots=True)
class Sticky:
    """by: nothing; "session", what the client calls one, in the header or as `prompt_cache_key` in
    the body; "prefix", the first 256 characters of the prompt as they are written.
    """

    by: Rule = "none"
    header: str = "x-session-id"

    def session(self, client: str, asked: Asked, headers: Headers) -> str | None:
        """What a request shares with others; None where it is alone."""
        if self.by == "prefix":
            return f"{asked.model}\0{asked.beginning}" if asked.beginning else None
        if self.by == "session":
            wanted = self.header.encode()
            given = next((value for name, value in headers if name == wanted), b"")
            named = given.decode("latin-1") or asked.session
            return f"{client}\0{named}" if named else None
        return None
