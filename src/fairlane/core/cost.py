"""Cost functions: what a request's tokens are worth (paper, section 3.1 and 4.4).

A cost h(n_p, n_q) prices n_p input and n_q output tokens. Policies need only its two parts: what
admission charges, h(n_p, 0), and what output tokens start+1..stop charge, h(n_p, stop) -
h(n_p, start). Charges are always such differences, so it does not matter how a host groups tokens
into reports: the sums are the same to the last bit. For that every price is a multiple of
2**-20, which double precision adds exactly up to 8 * 10**9.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Protocol

from fairlane.core.options import Range

_GRAIN = 2.0**20
_PRICES = Range(ge=0, lt=2.0**20)
Price = Annotated[float, _PRICES]


def exact(price: float) -> float:
    """`price` rounded to a multiple of 2**-20, so that sums of prices are exact."""
    return round(price * _GRAIN) / _GRAIN


class Cost(Protocol):
    """The price of a request, in the unit of service (input tokens for the linear cost)."""

    @property
    def per_output_token(self) -> float | None:
        """The price of any output token where all cost the same, else None."""

    def admission(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """h(n_p, 0) for a prompt of which `cached_tokens` were already in the KV cache."""

    def output(self, prompt_tokens: int, start: float, stop: float) -> float:
        """h(n_p, stop) - h(n_p, start); lengths may be fractional when they are predicted."""


def _checked_prices(cost: "LinearCost | QuadraticCost") -> dict[str, float]:
    """The prices that are set, by name. Raises FairlaneError for one that is out of range."""
    found = {price.name: getattr(cost, price.name) for price in fields(cost)}
    prices = {name: price for name, price in found.items() if price is not None}
    for name, price in prices.items():
        _PRICES.check(name, price)
    return prices


@dataclass(frozen=True, slots=True)
class LinearCost:
    """w_p * n_p + w_q * n_q, the paper's weighted token count (defaults 1 and 2).

    `cached_price` is the price of an input token whose KV cache entry already existed. Prices are
    rounded to multiples of 2**-20.
    """

    input_price: Price = 1.0
    output_price: Price = 2.0
    cached_price: Price | None = None

    def __post_init__(self) -> None:
        for name, price in _checked_prices(self).items():
            object.__setattr__(self, name, exact(price))

    @property
    def per_output_token(self) -> float:
        """The price of one output token."""
        return self.output_price

    def admission(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """w_p per input token, the cached ones at their own price."""
        if not cached_tokens or self.cached_price is None:
            return self.input_price * prompt_tokens
        fresh = self.input_price * (prompt_tokens - cached_tokens)
        return fresh + self.cached_price * cached_tokens

    def output(self, prompt_tokens: int, start: float, stop: float) -> float:
        """w_q per output token."""
        return exact(self.output_price * stop) - exact(self.output_price * start)

    def __call__(self, prompt_tokens: float, output_tokens: float) -> float:
        """h(n_p, n_q); numpy arrays work too."""
        return self.input_price * prompt_tokens + self.output_price * output_tokens


def whole_price(cost: Cost, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
    """What a request of so many tokens is charged in all."""
    output = cost.output(prompt_tokens, 0, output_tokens)
    return cost.admission(prompt_tokens, cached_tokens) + output


@dataclass(frozen=True, slots=True)
class QuadraticCost:
    """a n_p + b n_q + c n_p n_q + d n_q^2 + e: cost that follows a GPU's time (paper, app. B).

    The defaults are the coefficients that the paper's authors fitted on an A10G with Llama-2-7b;
    `fairlane profile-cost` fits others. Cached input tokens cost as much as others unless
    `cached_price`, a price per cached token in place of `a`, says otherwise.
    """

    prompt: Price = 0.21001891
    output_linear: Price = 0.10075395
    cross: Price = 0.0039868
    output_square: Price = 0.00324733
    constant: Price = 1.14601454
    cached_price: Price | None = None

    def __post_init__(self) -> None:
        _checked_prices(self)

    @property
    def per_output_token(self) -> None:
        """None: later output tokens cost more."""
        return None

    def admission(self, prompt_tokens: int, cached_tokens: int = 0) -> float:
        """h(n_p, 0)."""
        saved = 0.0
        if cached_tokens and self.cached_price is not None:
            saved = (self.prompt - self.cached_price) * cached_tokens
        return exact(self.prompt * prompt_tokens + self.constant - saved)

    def output(self, prompt_tokens: int, start: float, stop: float) -> float:
        """h(n_p, stop) - h(n_p, start)."""
        return self._decode(prompt_tokens, stop) - self._decode(prompt_tokens, start)

    def _decode(self, prompt_tokens: int, n: float) -> float:
        return exact(
            (self.output_linear + self.cross * prompt_tokens) * n + self.output_square * n * n
        )

    def __call__(self, prompt_tokens: float, output_tokens: float) -> float:
        """h(n_p, n_q); numpy arrays work too."""
        return (
            self.prompt * prompt_tokens
            + self.output_linear * output_tokens
            + self.cross * prompt_tokens * output_tokens
            + self.output_square * output_tokens * output_tokens
            + self.constant
        )
