"""The metrics as plain loops over requests, one definition after the other, to test against."""

from collections.abc import Callable, Sequence

from fairlane.records import RequestRecord

Price = Callable[[float, float], float]


def linear(prompt: float, output: float) -> float:
    return prompt + 2 * output


def share_in(record: RequestRecord, left: float, right: float) -> float:
    """The part of a request's tokens that came in [left, right], spread evenly."""
    if record.ttft_s is None or record.latency_s is None:
        return 0.0
    start, end = record.arrival_s + record.ttft_s, record.arrival_s + record.latency_s
    return max(min(right, end) - max(left, start), 0.0) / (end - start)


def service(records: Sequence[RequestRecord], x: float, price: Price = linear) -> float:
    total = sum(price(r.prompt_len, r.output_len) * share_in(r, x - 30, x + 30) for r in records)
    return total / 60


def demand(records: Sequence[RequestRecord], x: float) -> float:
    near = [r for r in records if x - 30 <= r.arrival_s <= x + 30]
    return sum(linear(r.prompt_len, r.output_len) for r in near) / 60


def response_time(records: Sequence[RequestRecord], x: float) -> float | None:
    waits = [
        r.ttft_s
        for r in records
        if r.ttft_s is not None and x - 30 <= r.arrival_s + r.ttft_s <= x + 30
    ]
    return sum(waits) / len(waits) if waits else None


def accumulated(
    records: Sequence[RequestRecord], x: float, begin: float = 0, skip: float = 0
) -> float:
    return sum(
        linear(r.prompt_len, r.output_len) * share_in(r, begin, x + begin)
        for r in records
        if r.latency_s is not None and r.arrival_s + r.latency_s >= skip
    )


def by_client(records: Sequence[RequestRecord]) -> list[list[RequestRecord]]:
    names = sorted({r.client for r in records})
    return [[r for r in records if r.client == name] for name in names]


def accumulated_difference(
    records: Sequence[RequestRecord], x: float, begin: float = 0, skip: float = 0
) -> float:
    sums = [accumulated(of_client, x, begin, skip) for of_client in by_client(records)]
    return max(sums) - min(sums)


def lacks(records: Sequence[RequestRecord], x: float, price: Price) -> list[tuple[float, float]]:
    """Per client: behind the best served one, and asked but not served."""
    clients = by_client(records)
    served = [service(of_client, x, price) for of_client in clients]
    return [
        (max(served) - s, demand(of_client, x) - s)
        for of_client, s in zip(clients, served, strict=True)
    ]


def largest_difference(records: Sequence[RequestRecord], x: float) -> float:
    return max(min(behind, unserved) for behind, unserved in lacks(records, x, linear))


def summed_difference(records: Sequence[RequestRecord], x: float, price: Price = linear) -> float:
    return sum(min(behind, abs(unserved)) for behind, unserved in lacks(records, x, price))
