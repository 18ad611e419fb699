"""Synthetic workloads of the paper's evaluation, bit-identical to the artifact's for every seed.

Bit-identity asks for three habits. Random numbers come from numpy's legacy generator, in the
artifact's order. Arrival times are running sums, one rounding per request, never `k / rate`. And
a request that is dropped (a silent window) still takes its random numbers and its time.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState

from fairlane.core.errors import UnknownNameError
from fairlane.workloads.config import WorkloadConfig, WorkloadError, whole_count
from fairlane.workloads.trace import TracedRequest


def generate(config: WorkloadConfig, *, seed: int = 42) -> list[TracedRequest]:
    """The requests of `config`, in arrival order.

    A scalar rate is spread over the clients by a power law, whatever the mode. Raises
    UnknownNameError for an unknown mode and WorkloadError for settings that the mode refuses.
    """
    rng = RandomState(seed)
    if not isinstance(config.req_rate, tuple):
        return _power_law(config, rng)
    if config.mode not in GENERATORS:
        raise UnknownNameError("workload mode", config.mode, GENERATORS)
    return GENERATORS[config.mode](config, rng)


def _uniform(config: WorkloadConfig, rng: RandomState) -> list[TracedRequest]:
    """Every client at its own constant rate, with a random phase."""
    requests: list[TracedRequest] = []
    _append_steady(requests, config, rng, _positive_rates(config), config.on_off)
    return _by_arrival(requests)


def _dist_shift(config: WorkloadConfig, rng: RandomState) -> list[TracedRequest]:
    """Three phases of a third each: on-off, both overloaded, one overloaded (paper, fig. 10).

    The rates are fixed, so the configuration's must be -1.
    """
    if config.req_rate != (-1, -1):
        raise WorkloadError("dist_shift sets its own rates; req_rate must be -1, -1")
    requests: list[TracedRequest] = []
    third = config.duration / 3
    _append_steady(requests, config, rng, (0.5, 2), 60, parts=3)
    _append_steady(requests, config, rng, (1, 1), -1, parts=3, begin=third)
    _append_steady(requests, config, rng, (0.5, 1.5), -1, parts=3, begin=third * 2)
    return _by_arrival(requests)


def _append_steady(
    requests: list[TracedRequest],
    config: WorkloadConfig,
    rng: RandomState,
    rates: tuple[float, ...],
    on_off: float,
    *,
    parts: int = 1,
    begin: float = 0.0,
) -> None:
    """One client after the other: lengths, phase, then evenly spaced requests from `begin`."""
    for client, rate in enumerate(rates):
        lengths = _lengths(config, rng, whole_count(rate * config.duration / parts))
        now = begin + rng.rand() * 1 / rate
        for prompt_len, output_len in lengths:
            now += 1 / rate
            if not (client == 0 and _silent(now, on_off)):
                requests.append(
                    TracedRequest(len(requests), str(client), now, prompt_len, output_len)
                )


def _increase(config: WorkloadConfig, rng: RandomState) -> list[TracedRequest]:
    """Client 0 at a constant rate, client 1 from 0.2 requests a second up to its rate."""
    steady, final = _two_rates(config)
    requests: list[TracedRequest] = []
    now = 0.0
    for prompt_len, output_len in _lengths(config, rng, whole_count(steady * config.duration)):
        now += 1 / steady
        if not _silent(now, config.on_off):
            requests.append(TracedRequest(len(requests), "0", now, prompt_len, output_len))
    first = 0.2
    now = 0.0
    for prompt_len, output_len in _lengths(
        config, rng, whole_count(0.5 * (first + final) * config.duration)
    ):
        now += 1 / (first + (final - first) * now / config.duration)
        requests.append(TracedRequest(len(requests), "1", now, prompt_len, output_len))
    return _by_arrival(requests)


def _unchanged(prompt_len: int, output_len: int) -> tuple[int, int]:
    return prompt_len, output_len


def _poisson(
    config: WorkloadConfig,
    rng: RandomState,
    client_0: Callable[[int, int], tuple[int, int]] = _unchanged,
) -> list[TracedRequest]:
    """One stream of random arrivals, each given to a client in proportion to its rate.

    `client_0` turns the drawn (prompt, output) lengths into those of client 0.
    """
    rates = _two_rates(config)
    count = whole_count(sum(rates) * config.duration)
    second = rng.rand(count) > rates[0] / (rates[0] + rates[1])
    lengths = _lengths(config, rng, count)
    requests = []
    now = 0.0
    for i, gap in enumerate(_gaps(config, rng, sum(rates), count)):
        now += gap
        if second[i]:
            requests.append(TracedRequest(i, "1", now, *lengths[i]))
        elif not _silent(now, config.on_off):
            requests.append(TracedRequest(i, "0", now, *client_0(*lengths[i])))
    return requests


def _poisson_short_long(config: WorkloadConfig, rng: RandomState) -> list[TracedRequest]:
    """Client 0 sends requests of a quarter of the length, in and out (paper, fig. 7)."""
    if min(config.input_range[0], config.output_range[0]) < 4:
        raise WorkloadError("poisson-short-long quarters lengths; they must be at least 4")
    return _poisson(config, rng, lambda prompt, output: (prompt // 4, output // 4))


def _poisson_short_long_2(config: WorkloadConfig, rng: RandomState) -> list[TracedRequest]:
    """Client 0's input and output lengths are swapped (paper, fig. 8)."""
    return _poisson(config, rng, lambda prompt, output: (output, prompt))


def _power_law(config: WorkloadConfig, rng: RandomState) -> list[TracedRequest]:
    """One rate for all: random arrivals, the client drawn from a power law."""
    rate = config.req_rate
    if isinstance(rate, tuple) or not (rate > 0 and config.alpha > 0 and config.num_adapters > 0):
        raise WorkloadError("a scalar req_rate needs rate, alpha and num_adapters above 0")
    count = whole_count(rate * config.duration)
    clients = (rng.power(config.alpha, count) * config.num_adapters).astype(int).tolist()
    lengths = _lengths(config, rng, count)
    arrivals = np.cumsum(_gaps(config, rng, rate, count)).tolist()
    return [TracedRequest(i, str(clients[i]), arrivals[i], *lengths[i]) for i in range(count)]


def _lengths(config: WorkloadConfig, rng: RandomState, count: int) -> list[tuple[int, int]]:
    """(prompt, output) lengths; all inputs are drawn before all outputs."""
    prompts = rng.randint(*config.input_range, count).tolist()
    outputs = rng.randint(*config.output_range, count).tolist()
    return list(zip(prompts, outputs, strict=True))


def _gaps(config: WorkloadConfig, rng: RandomState, rate: float, count: int) -> list[float]:
    """Gamma-distributed times between arrivals, in seconds; exponential for cv = +-1."""
    squared = config.cv * config.cv
    gaps: list[float] = rng.gamma(1 / squared, squared / rate, count).tolist()
    return gaps


def _silent(now: float, on_off: float) -> bool:
    return on_off != -1 and int(now // on_off) % 2 == 1


def _positive_rates(config: WorkloadConfig) -> tuple[float, ...]:
    rates = config.req_rate
    if not isinstance(rates, tuple) or not all(rate > 0 for rate in rates):
        raise WorkloadError(f"mode {config.mode}: req_rate must be one positive rate per client")
    return rates


def _two_rates(config: WorkloadConfig) -> tuple[float, float]:
    rates = _positive_rates(config)
    if len(rates) != 2:
        raise WorkloadError(f"mode {config.mode} is for two clients, not {len(rates)}")
    return rates[0], rates[1]


def _by_arrival(requests: list[TracedRequest]) -> list[TracedRequest]:
    return sorted(requests, key=lambda request: request.arrival_s)


GENERATORS = {
    "uniform": _uniform,
    "increase": _increase,
    "poisson": _poisson,
    "poisson-short-long": _poisson_short_long,
    "poisson-short-long-2": _poisson_short_long_2,
    "dist_shift": _dist_shift,
}
