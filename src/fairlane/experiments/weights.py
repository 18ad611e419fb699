"""Whose weight is whose: weights as a user gives them, and by client.

Given by position, they belong to the clients in the order in which these first send; where all
names are whole numbers, as in the paper's suites, in the order of these. Given by name, clients
that are not named weigh 1.
"""

import math
from collections.abc import Mapping, Sequence

from fairlane.core.errors import FairlaneError
from fairlane.workloads.rows import parse_number
from fairlane.workloads.trace import TracedRequest

Weights = tuple[float, ...] | tuple[tuple[str, float], ...]  # by position, or by name

_SHOWN = 8  # names in a complaint


def parse_weights(text: str | None, option: str = "--weights") -> Weights:
    """What `1,2,3` or `alice=1,bob=2` says. Raises FairlaneError, naming the option."""
    if text is None:
        return ()
    parts = [part.rpartition("=") for part in text.split(",")]
    names = [name.strip() for name, _, _ in parts]
    by_name = {bool(sign) for _, sign, _ in parts}
    try:
        numbers = [_positive(number) for _, _, number in parts]
    except ValueError:
        numbers = []
    if not numbers or len(by_name) > 1 or (by_name == {True} and not all(names)):
        raise FairlaneError(
            f"{option} takes numbers above 0 with commas between, one for each client, or "
            f"NAME=NUMBER for some, not {text!r}"
        )
    if by_name == {False}:
        return tuple(numbers)
    if len(set(names)) < len(names):
        raise FairlaneError(f"{option} names a client twice: {text!r}")
    return tuple(zip(names, numbers, strict=True))


def _positive(text: str) -> float:
    number = parse_number(text)
    if not 0 < number < math.inf:
        raise ValueError("must be above 0")
    return number


def clients_in_order(requests: Sequence[TracedRequest]) -> list[str]:
    """The clients in the order in which weights are given to them by position."""
    clients = list(dict.fromkeys(request.client for request in requests))
    if all(client.isascii() and client.isdigit() for client in clients):
        clients.sort(key=int)
    return clients


def weights_by_client(weights: Weights, requests: Sequence[TracedRequest]) -> dict[str, float]:
    """Every client's weight; {} where none are given.

    Raises FairlaneError for a weight that belongs to no client, and for clients without one.
    """
    if not weights:
        return {}
    clients = clients_in_order(requests)
    named = {given[0]: given[1] for given in weights if isinstance(given, tuple)}
    if named:
        if unknown := [name for name in named if name not in clients]:
            raise FairlaneError(
                f"weights for {_listed(unknown)}, who sends nothing; clients are {_listed(clients)}"
            )
        return {client: named.get(client, 1.0) for client in clients}
    by_position = [given for given in weights if not isinstance(given, tuple)]
    if len(by_position) != len(clients):
        raise FairlaneError(
            f"{len(by_position)} weights for {len(clients)} clients: give one each, to "
            f"{_listed(clients)}, or NAME=NUMBER"
        )
    return dict(zip(clients, by_position, strict=True))


def describe_weights(weights: Mapping[str, float]) -> str:
    """One line that says whose weight is whose."""
    return "weights: " + ", ".join(f"{client}={weight:g}" for client, weight in weights.items())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
