"""Fairness over the replicas of a cluster, as Markdown tables: `python -m benchmarks.cluster`.

Simulated servers of 4,000 tokens, requests of 50 to 150 tokens in and out, clients that ask for
about twice what all replicas can do where nothing else is said. Four tables: what A gets for each
unit of B's, by who reaches what and how old reports are; the same by router; what a client feels
that stays within its share; and what the guard costs and gives. With --figure also a drawing.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

from benchmarks import chosen, parser
from fairlane.core.audit import Auditor
from fairlane.experiments.drawings import Panel
from fairlane.experiments.figure import Ensemble
from fairlane.experiments.panels import replica_panel, service_panel
from fairlane.experiments.plotting import draw_page, save_page
from fairlane.experiments.samples import Sample
from fairlane.records import Run
from fairlane.simulator.cluster import RoutedCluster
from fairlane.workloads.trace import TracedRequest
from tests.simulator.floods import GAIN, WEIGHTS, flood, make_cluster, ratio, serve, served

EXCHANGES: dict[str, float | str] = {
    "independent": "off", "10 s": 10.0, "1 s": 1.0, "0.2 s": 0.2, "at once": 0.0,
}  # fmt: skip
LONG_S = 180.0
WARM_S = 30.0


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In Markdown."""
    print(f"{title}\n\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


# -- who reaches what ------------------------------------------------------------------------


def flooded(
    replicas: int, exchange: float | str, reach: dict[str, float], scheduler: str = "vtc"
) -> str:
    """What A gets for each unit of B's; where both wait everywhere also how far they came apart."""
    cluster = make_cluster(
        flood(replicas), replicas, exchange, scheduler=scheduler, reach=reach, weights=WEIGHTS
    )
    auditor = Auditor(weights=WEIGHTS, places=len(cluster.policies))
    if exchange != "central" and not reach:
        for replica, policy in enumerate(cluster.policies):
            policy.watch(auditor.at(replica))
    found = f"{ratio(serve(cluster)):.2f}"
    apart = auditor.report().observed / (replicas * GAIN)
    return f"{found} ({apart:.2f} U)" if apart else found


def charged_late(replicas: int, exchange: float | str) -> str:
    """The most that all replicas charge within the time that a report may be old, in U."""
    cluster = make_cluster(flood(replicas), replicas, exchange, weights=WEIGHTS)
    serve(cluster)
    assert isinstance(cluster, RoutedCluster)
    if cluster.exchange is None:
        return ""
    return f"{cluster.exchange.most_charged / (replicas * GAIN):.2f} U"


def table_of_floods(sizes: Sequence[int]) -> None:
    """Everyone everywhere, and B on a quarter."""
    rows = []
    for name, reach in (("both everywhere", {}), ("B on a quarter", {"B": 0.25})):
        for replicas in sizes:
            cells = [
                flooded(replicas, "central", {}, "vtc"),
                flooded(replicas, "off", reach, "drr"),
            ]
            cells += [flooded(replicas, how, reach, "vtc") for how in EXCHANGES.values()]
            rows.append([name, str(replicas), *cells])
    late = [charged_late(sizes[-1], how) for how in EXCHANGES.values()]
    rows.append(["charged while a report is late", str(sizes[-1]), "", "", *late])
    print_table(
        "A for each unit of B's, 4 by their weights (difference while both wait everywhere)",
        ["A and B reach", "replicas", "one queue", "drr, independent", *EXCHANGES],
        rows,
    )


# -- who routes ------------------------------------------------------------------------------


def with_prefixes(requests: list[TracedRequest]) -> list[TracedRequest]:
    """A's prompts begin in one of 16 ways, B's in one of four of these."""
    rng, ways = Random(3), {"A": 16, "B": 4}
    return [replace(r, prefix=f"app {rng.randrange(ways[r.client])}") for r in requests]


def table_of_routers(replicas: int) -> None:
    """The same clients, of equal weight, behind each router."""
    rows = []
    for router, reach in (
        ("round-robin", {}), ("random", {}), ("least-tokens", {}), ("skewed", {}), ("sticky", {}),
        ("round-robin", {"B": 0.5}), ("random", {"B": 0.5}), ("least-tokens", {"B": 0.5}),
        ("skewed", {"B": 0.5}), ("prefix", {}),
    ):  # fmt: skip
        requests = with_prefixes(flood(replicas))
        ratios = [
            ratio(serve(make_cluster(requests, replicas, how, router=router, reach=reach)))
            for how in ("off", 0.2)
        ]
        where = "half of the replicas" if reach else "all"
        if router in ("sticky", "prefix"):
            where = "one replica each" if router == "sticky" else "four prefixes of A's sixteen"
        rows.append([router, where, *(f"{one:.2f}" for one in ratios)])
    print_table(
        f"A for each unit of B's, 1 by their weights, {replicas} replicas",
        ["router", "B reaches", "independent", "0.2 s"],
        rows,
    )


# -- who sends little ------------------------------------------------------------------------


def beside_a_flood(rate: float, replicas: int) -> list[TracedRequest]:
    """A floods all replicas, B sends `rate` requests a second."""
    rng, now = Random(1), 0.0
    requests: list[TracedRequest] = []
    of_a = 8.0 * replicas
    while now < LONG_S:
        now += rng.expovariate(of_a + rate)
        client = "B" if rng.random() < rate / (of_a + rate) else "A"
        prompt, output = rng.randint(50, 150), rng.randint(50, 150)
        requests.append(TracedRequest(len(requests), client, now, prompt, output))
    return requests


def first_tokens(run: Run, client: str) -> list[float]:
    """Sorted first-token latencies of a client's requests while all send."""
    return sorted(
        r.ttft_s
        for r in run.records
        if r.client == client and r.ttft_s is not None and WARM_S <= r.arrival_s < LONG_S - WARM_S
    )


def table_of_light(replicas: int) -> None:
    """B asks for less than its share, at one of the replicas."""
    rows = []
    for name, exchange, guard in (
        ("one queue", "central", 0.0), ("independent", "off", 0.0), ("0.2 s, no guard", 0.2, 0.0),
        ("0.2 s, guard 5 %", 0.2, 0.05), ("0.2 s, guard 10 %", 0.2, 0.10),
    ):  # fmt: skip
        cells = []
        for rate in (2.0, 3.5, 4.5):
            requests = beside_a_flood(rate, replicas)
            reach = {} if exchange == "central" else {"B": 1 / replicas}
            waits = first_tokens(
                serve(make_cluster(requests, replicas, exchange, guard=guard, reach=reach)), "B"
            )
            middle, worst = waits[len(waits) // 2], waits[int(0.99 * len(waits))]
            cells.append(f"{middle:.2f}, {worst:.2f}")
        rows.append([name, *cells])
    print_table(
        f"First token of B after (s): median and p99, {replicas} replicas, B at one of them",
        ["queue", "B sends 2/s", "3.5/s", "4.5/s"],
        rows,
    )


# -- the guard -------------------------------------------------------------------------------


def table_of_guard() -> None:
    """A floods one replica, B the same and another."""
    rows = []
    for name, exchange, guard in (
        ("independent", "off", 0.0), ("no guard", 0.2, 0.0), ("5 %", 0.2, 0.05),
        ("10 %", 0.2, 0.10), ("20 %", 0.2, 0.20),
    ):  # fmt: skip
        run = serve(make_cluster(flood(2), 2, exchange, guard=guard, reach={"A": 0.5}))
        home = next(record.replica for record in run.records if record.client == "A")
        here = served(replace(run, records=[r for r in run.records if r.replica == home]))
        everywhere = served(run)
        rows.append(
            [
                name,
                f"{everywhere['A'] / sum(everywhere.values()):.1%}",
                f"{here['B'] / sum(here.values()):.1%}",
                f"{longest_pause(run, 'B', home):.0f}",
            ]
        )
    print_table(
        "A floods one of two replicas, B both; each is entitled to half",
        ["guard", "A of all", "B of A's replica", "longest time without a first token of B's (s)"],
        rows,
    )


def longest_pause(run: Run, client: str, replica: int | None) -> float:
    """The longest time in which a replica gives no first token to a client, while all send."""
    begin, end = 20.0, 60.0
    firsts = [
        r.arrival_s + r.ttft_s
        for r in run.records
        if r.client == client and r.replica == replica and r.ttft_s is not None
    ]
    marks = [begin, *sorted(at for at in firsts if begin < at < end), end]
    return max(after - before for before, after in pairwise(marks))


# -- the figure ------------------------------------------------------------------------------


def draw(path: Path, replicas: int) -> None:
    """Service over time with B on a quarter of the replicas: of all, and at B's replica."""
    requests = flood(replicas, sending_s=LONG_S)
    above: list[Panel] = []
    below: list[Panel] = []
    for label, exchange in (("independent queues", "off"), ("an exchange every 0.2 s", 0.2)):
        reach = {"B": 1 / replicas}
        run = serve(make_cluster(requests, replicas, exchange, reach=reach, weights=WEIGHTS))
        home = next(r.replica for r in run.records if r.client == "B")
        assert home is not None
        ensemble = Ensemble(label, [Sample.of(run)])
        service = service_panel(ensemble, count=60, span=LONG_S)
        there = replica_panel(ensemble, home, count=60, span=LONG_S)
        above.append(replace(service, y_max=7000))
        below.append(replace(there, y_max=2000, title=f"At B's replica under {label}"))
    save_page(draw_page("", [*above, *below], columns=2, note=_NOTE), path)


_NOTE = "Client A of weight 4 at all four replicas, B of weight 1 at one. B is owed a fifth of all."


def main() -> None:
    """Prints the tables."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[2, 4, 8, 16])
    options.add_argument("--figure", type=Path, help="where to draw (.png, .svg, .pdf)")
    asked = chosen(options, sizes=[2])
    if asked.figure is not None:
        draw(asked.figure, 4)
        return
    table_of_floods(asked.sizes)
    table_of_routers(asked.sizes[-1] if asked.quick else 8)
    table_of_light(asked.sizes[-1] if asked.quick else 4)
    table_of_guard()


if __name__ == "__main__":
    main()
