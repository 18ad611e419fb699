"""Output-length predictors for predicted VTC (paper, section 4.4 and algorithm 3).

A predictor says how many output tokens a request will produce, which admission charges in
advance. It learns from finished requests only through `observe`.
"""

from collections.abc import Callable
from typing import Protocol

from fairlane.core.options import AT_LEAST_ONE, FRACTION
from fairlane.core.types import Request


class Predictor(Protocol):
    """Predicted output tokens of a request, >= 0 and possibly fractional."""

    def predict(self, request: Request) -> float:
        """Tokens that `request` is expected to produce."""

    def observe(self, request: Request, output_tokens: int) -> None:
        """`request` finished with `output_tokens`."""

    def forget(self, client: str) -> None:
        """Drop what is known of a client."""


class MovingAverage:
    """The artifact's predictor: an average of the client's outputs that forgets slowly.

    The first length is taken as it is; each later one moves the estimate by 1/window. An
    unknown client is predicted 0, so its first request is charged as it goes. At most
    `max_clients` are remembered, in two generations: those that finished nothing for longest
    are forgotten.
    """

    def __init__(self, window: int = 5, max_clients: int = 1_000_000) -> None:
        AT_LEAST_ONE.check("window", window)
        AT_LEAST_ONE.check("max_clients", max_clients)
        self._window = window
        self._max_clients = max_clients
        self._young: dict[str, float] = {}
        self._old: dict[str, float] = {}

    def predict(self, request: Request) -> float:
        """The client's current estimate."""
        return self._young.get(request.client) or self._old.get(request.client, 0.0)

    def observe(self, request: Request, output_tokens: int) -> None:
        """Move the client's estimate towards `output_tokens`."""
        old = self.predict(request)
        new = ((self._window - 1) * old + output_tokens) / self._window if old else output_tokens
        self.forget(request.client)
        self._young[request.client] = float(new)
        if 2 * len(self._young) >= self._max_clients:
            self._old, self._young = self._young, {}

    def forget(self, client: str) -> None:
        """Drop the client's estimate."""
        self._young.pop(client, None)
        self._old.pop(client, None)


class Oracle:
    """The true output length, or the truth blurred: uniform on [(1-spread) n, (1+spread) n].

    Only an experiment can have one: it hands in `true_length`, and `uniform(low, high)` as the
    source of randomness when `spread` is not 0.
    """

    def __init__(
        self,
        true_length: Callable[[Request], int],
        spread: float = 0.0,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        FRACTION.check("predict_range", spread)
        if spread and uniform is None:
            raise ValueError("a blurred oracle needs a source of randomness")
        self._true_length = true_length
        self._spread = spread
        self._uniform = uniform

    def predict(self, request: Request) -> float:
        """The true length, blurred."""
        length = self._true_length(request)
        if self._uniform is None or not self._spread:
            return float(length)
        return self._uniform(length * (1 - self._spread), length * (1 + self._spread))

    def observe(self, request: Request, output_tokens: int) -> None:
        """Nothing to learn."""

    def forget(self, client: str) -> None:
        """Nothing to forget."""
