"""A synthetic trace that looks like ten minutes of an LLM arena.

The paper's real trace is a sample of chatbot-arena logs: 27 clients, of which four send more than
half of the requests and some only one; clients that come late or leave early; prompts of a few
tokens to a thousand; outputs that often run into a limit of 512 tokens. This draws the like.
Lengths are drawn by strata (one random number in each n-th part of the distribution) and scaled
to the wished mean, so that every seed meets the published statistics.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from fairlane.workloads.config import WorkloadConfig, WorkloadError, whole_count
from fairlane.workloads.suites import workload
from fairlane.workloads.trace import TracedRequest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RATE_SIGMA = 1.2  # log-normal spread of requests per client
GAP_CV = 1.1  # spread of the time between a client's requests; 1 is Poisson
PROMPT_SHAPE = 0.85  # log-logistic: half of the prompts are under a third of the mean
OUTPUT_SHAPE = 0.85  # Weibull: a little heavier than exponential, up to ...
OUTPUT_LIMIT = 2.0  # ... the front-end's limit, in means (512 tokens in the real trace)
UNLIMITED_SHARE = 0.25  # the part of requests that had no limit


def synthesize(
    *,
    seed: int = 42,
    clients: int = 27,
    requests_per_minute: float = 210,
    duration_s: float = 600,
    mean_prompt: float = 136,
    mean_output: float = 256,
    max_len: int = 1023,
) -> list[TracedRequest]:
    """An arena-like trace, in arrival order; the defaults are the paper's statistics.

    Lengths are tokens, 1 to `max_len`. Every client sends at least one request; clients are named
    "0", "1", ... in random order of their rates. Raises WorkloadError for what cannot be met.
    """
    for wish in (requests_per_minute, duration_s, mean_prompt, mean_output):
        if not 0 < wish < math.inf:
            raise WorkloadError(f"rate, duration and mean lengths must be above 0, not {wish}")
    wanted = requests_per_minute * duration_s / 60
    whole_count(wanted)  # refuses more than fit
    count = round(wanted)
    if not 1 <= clients <= count:
        raise WorkloadError(f"{count} requests cannot be spread over {clients} clients")
    rng = np.random.default_rng(seed)
    counts = _client_counts(rng, clients, count)
    client = np.repeat(np.arange(clients), counts)
    arrival = np.concatenate([_arrivals(rng, int(n), n / count) for n in counts]) * duration_s
    prompts = _prompt_lengths(rng, count, mean_prompt, max_len)
    outputs = _output_lengths(rng, count, mean_output, max_len)
    return [
        TracedRequest(i, str(client[row]), float(arrival[row]), int(prompts[i]), int(outputs[i]))
        for i, row in enumerate(np.argsort(arrival, kind="stable"))
    ]


def _client_counts(rng: np.random.Generator, clients: int, count: int) -> Integers:
    """How many of `count` requests each client sends: unequal, none without any."""
    middles = (np.arange(clients) + 0.5) / clients
    spread = [NormalDist().inv_cdf(middle) for middle in middles] + 0.2 * rng.normal(size=clients)
    weights = rng.permutation(np.exp(RATE_SIGMA * spread))
    exact = weights / weights.sum() * (count - clients)
    counts: Integers = 1 + exact.astype(np.int64)
    largest = np.argsort(counts - exact)[: count - counts.sum()]  # the largest remainders
    counts[largest] += 1
    return counts


def _arrivals(rng: np.random.Generator, count: int, share: float) -> Floats:
    """`count` instants in 0..1; half of the clients come late or leave early.

    A heavy client (`share` of all requests) is there long enough not to flood the server.
    """
    habit, part = rng.random(2)
    width = 1.0 if habit < 0.5 else max(0.1 + 0.7 * part, min(1.0, 3 * share))
    begin = 1.0 - width if habit < 0.8 else 0.0
    gaps = rng.gamma(1 / GAP_CV**2, size=count + 1)
    instants: Floats = begin + width * np.cumsum(gaps)[:-1] / gaps.sum()
    return instants


def _prompt_lengths(rng: np.random.Generator, count: int, mean: float, max_len: int) -> Integers:
    """Log-logistic lengths, cut off at `max_len`."""
    part = _strata(rng, count)

    def lengths(scale: float) -> Floats:
        below = part / (1 + (max_len / scale) ** -PROMPT_SHAPE)
        quantiles: Floats = scale * (below / (1 - below)) ** (1 / PROMPT_SHAPE)
        return quantiles

    return _scaled_to_mean(lengths, mean, max_len)


def _output_lengths(rng: np.random.Generator, count: int, mean: float, max_len: int) -> Integers:
    """Weibull lengths, most of them cut to the front-end's limit."""
    part = _strata(rng, count)
    limit = np.where(rng.random(count) < UNLIMITED_SHARE, max_len, OUTPUT_LIMIT * mean)

    def lengths(scale: float) -> Floats:
        below = -part * np.expm1(-((max_len / scale) ** OUTPUT_SHAPE))
        quantiles: Floats = scale * (-np.log1p(-below)) ** (1 / OUTPUT_SHAPE)
        return np.minimum(quantiles, limit)

    return _scaled_to_mean(lengths, mean, max_len)


def _strata(rng: np.random.Generator, count: int) -> Floats:
    """One random number in each n-th part of 0..1, shuffled."""
    numbers: Floats = rng.permutation((np.arange(count) + rng.random(count)) / count)
    return numbers


def _scaled_to_mean(lengths: Callable[[float], Floats], mean: float, max_len: int) -> Integers:
    """Whole lengths of the scale whose mean is `mean`, found by bisection."""
    low, high = 1e-3, 1e6
    for _ in range(60):
        scale = (low * high) ** 0.5
        whole = lengths(scale).round().clip(1, max_len).astype(np.int64)
        low, high = (scale, high) if whole.mean() < mean else (low, scale)
    if abs(whole.mean() - mean) > 0.01 * mean:
        raise WorkloadError(f"a mean of {mean} tokens is out of reach of lengths 1 to {max_len}")
    return whole


@workload(
    "arena",
    title="a synthetic trace like the real one: 27 clients of very unequal rates",
    config=WorkloadConfig(
        num_adapters=27, req_rate=3.5, input_range=(1, 1024), output_range=(1, 1024), mode="arena"
    ),
)
def _arena(config: WorkloadConfig, seed: int) -> list[TracedRequest]:
    return synthesize(seed=seed, duration_s=config.duration)
