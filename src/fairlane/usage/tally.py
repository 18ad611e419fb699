"""What grows until somebody takes it: numbers by client and model. Standard library alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

REQUESTS, INPUT, CACHED, OUTPUT, SERVICE, WAIT = range(6)  # of a list of numbers


@dataclass(slots=True)
class Grown:
    """What was served and refused since somebody last asked.

    used: by client and model, in the order of rows.Used. refused: and reason.
    """

    used: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def rows(self) -> tuple[list[Any], list[Any]]:
        """The same as lists, which travel between processes."""
        return [[*key, *n] for key, n in self.used.items()], [
            [*key, count] for key, count in self.refused.items()
        ]

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], model: str) -> "Grown":
        """From such lists. model: the name of that which has none."""
        used, refused = rows
        return cls(
            {(client, name or model): numbers for client, name, *numbers in used},
            Counter({(client, name or model, why): count for client, name, why, count in refused}),
        )


class Tally:
    """Adds up for whoever takes; as long as nobody ever took, nothing.

    most: clients and models that are kept apart; beyond, clients are called `rest`.
    """

    def __init__(self, most: int, rest: str) -> None:
        self._most, self._rest = most, rest
        self._grown = Grown()
        self.on = False

    def add(
        self,
        client: str,
        model: str,
        *,
        requests: int = 0,
        input_tokens: int = 0,
        cached_tokens: int = 0,
        output_tokens: int = 0,
        service: float = 0.0,
        wait_s: float = 0.0,
    ) -> None:
        """Something grew by so much."""
        if not self.on:
            return
        used = self._grown.used
        numbers = used.get((client, model))
        if numbers is None:
            key = (client if len(used) < self._most else self._rest, model)
            numbers = used.setdefault(key, [0, 0, 0, 0, 0.0, 0.0])
        numbers[REQUESTS] += requests
        numbers[INPUT] += input_tokens
        numbers[CACHED] += cached_tokens
        numbers[OUTPUT] += output_tokens
        numbers[SERVICE] += service
        numbers[WAIT] += wait_s

    def refuse(self, client: str, model: str, reason: str) -> None:
        """A request was turned away."""
        if self.on:
            refused = self._grown.refused
            known = (client, model, reason) in refused or len(refused) < self._most
            refused[client if known else self._rest, model, reason] += 1

    def take(self) -> Grown:
        """What has grown since the last time."""
        taken, self._grown, self.on = self._grown, Grown(), True
        return taken
