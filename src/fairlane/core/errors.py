"""The errors that users meet, each with one clear line."""

import difflib
from collections.abc import Iterable


class FairlaneError(ValueError):
    """Base of every error that bad input or misuse of the API raises."""


class UnknownRequestError(FairlaneError):
    """A host spoke of a request that the policy does not hold in the state it assumed."""


class UnknownNameError(FairlaneError):
    """A name (scheduler, suite, profile, figure) that does not exist; lists what does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
