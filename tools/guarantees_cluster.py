"""The part of docs/guarantees.md on many schedulers: what is proved, how close an attacker gets.

A climbing search over what three clients send to which of two or three small servers
(benchmarks/adversary_cluster.py), for the two differences that are bounded. Seeded.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.adversary_cluster import Cluster, PlacedWave, mutate_placed, random_placed

from fairlane.core.audit import service_bound
from fairlane.core.counters import Lift, Node, lift_to_least_or_last, no_lift
from fairlane.core.fair_queue import FairQueue
from fairlane.core.settling import SETTLE_S

MEMORY = 200
U = service_bound(MEMORY, 40) / 2  # of one server
TRIES = 120
SIZES = (2, 3)
JOBS = 300
STEPS = 2000
SETTINGS = ((0, 1.5), (1, 3.0))  # steps between exchanges, and H in U, at least 1 + 2 A
SECTION = """## Over many schedulers

N schedulers that share their charges ([cluster](cluster.md), `fairlane.core.sharing`). U_r is the
U of one of them, U the sum of all. A charge is heard everywhere D seconds after it was made, at
the latest: twice the time between exchanges and what a call of the hub takes; A is the most that
all charge together within D. H is `max_debt`, at least U + 2A. W_f is what f gets anywhere, W_f^r
what it gets at r, since an interval began.

| | statement | bound |
| --- | --- | ---: |
| B1 | f and g wait at every scheduler: W_f - W_g, with n clients there | (n - 1) H + U + 2A |
| B2 | f and g wait at r, one of n_r there: W_f^r - W_g | (n_r - 1) H + U_r + 2A |
| B3 | f, more than A and up to H ahead of g at r, is admitted there before g | never |
| B4 | with a guard p: what who waits at r gets of r's service | about min(p, its share alone) |

So two clients that wait everywhere differ by at most 2U + 4A for the least H: one central queue's
2U, and what staleness adds. B1 to B3 hold without a guard; with it B2 grows by what the guard
gives out, p of r's service, and B1 by no proved amount. With weights everything is per weight: U
and A are divided by the least. Where requests are preempted, U is the larger one of above.

No bound can hold between clients that wait *somewhere*. Where A waits at one scheduler and B at
all, whoever keeps all of them busy lets B lead without limit: A cannot be served where it is not.
B2 and B3 say what is possible instead: who leads is not served where one waits who lags.

**Proof of B1.** Let G be the difference of the true counters of f and g at r: with all that was
charged by then, heard or not. A charge anywhere changes G at every r as it changes X = W_f - W_g;
neither client is lifted while it waits; so K = G - X at r changes by relaxing and by comparing
levels (`core/settling.py`) alone. When r
admits f it sees a difference of at most 0, so G <= A and X <= A - K. After f's last admission X
grows by at most U, the prompt and the outputs of what f then runs. So X <= max(-K) + A + U at all
times, the maximum over all r and all times before. Relaxing raises g towards f at r only where it
sees a gap above H between neighbours, of which H is left: then G >= H - A, so -K = X - G <=
max(-K) + U + 2A - H, which is no more than max(-K) was: it never grows. Comparing levels with s
puts K at r half way to what K was at s, so between two that there were. And when the interval
began X was 0, and -K = -G was at most (n - 1) H + A: the last relaxing (at the last exchange, and
whenever one comes to wait) left (n - 1) H, and what was charged since or not heard is part of A.
Together the bound. (What s told before the interval began may be older than D: then A is what was
charged since, for as long as that is compared, {settle} s and twice the time between exchanges.)

**Proof of B2.** With F what f gets elsewhere, G at r is G(0) + W_f^r - W_g + F - E, where E is
what relaxing forgave f. Whenever it forgives, G >= H - A is left; so E(t) is at most the largest
value, over s <= t, of G(0) + (W_f^r - W_g)(s) + F(s) - H + A, or 0. When r admits f, G <= A; so
W_f^r - W_g is at most A - G(0) - F(t) + E(t): if E is 0, at most (n_r - 1) H + 2A. Otherwise,
since F grows, at most (W_f^r - W_g)(s) + 2A - H, which is no more than it was at the last
admission before s, as it grew by at most U_r from there and H >= U_r + 2A. So the first case
bounds all admissions, and U_r is what follows the last. Comparing levels can forgive f more than
relaxing does, if it compares g with others than f; that is searched, and not proved.

Why the guard adds to B1: f may be ahead of g everywhere and yet be first in the home order of
some scheduler, if it got its service elsewhere before. There it gets p of the service, which is
more than g gets where more than 1/p clients wait. The search found no such attack with three
clients.

A client that is known to a scheduler only by name (it never came there, or was forgotten) begins
there as on a single server; what it got elsewhere before is not charged to it. Bounds count from
when both wait. What a hub held and had not told everyone when it was lost is heard by some only:
at most A, once.

`tests/properties/test_cluster.py` asserts B1 and B2 on random workloads, with N from 1 to 4,
weights, preemption and exchanges of every age, and runs an example for each part of the algorithm
that goes wrong without it.

### How close an attacker gets, with many

The search of above over what three clients send to which of two or three servers, {tries}
workloads for each entry and size, in units of U, the sum of both or all three. Each charge is
heard at once (every 0; H = {h} U), or the servers exchange in every step (every 1; H = {h_stale}
U, as these servers are so small that a few steps charge a large part of U). Workloads whose A is
too large for their H do not count; the bounds are of three clients at three servers.

{table}

The controls need more than a short search to go as wrong as they can:
`tests/properties/test_cluster.py` has an attack on each. Independent queues are, where all wait
everywhere or at one, what single servers are; what they lack shows where clients do not wait
everywhere ([cluster](cluster.md)).
"""


_TITLES = {"at_all": "B1", "at_one": "B2"}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to share. part: of H that is max_debt, None for no limit. shares: whether they do.

    settles: steps between two comparisons of levels.
    """

    title: str
    part: float | None = 1.0
    guard: float = 0.0
    shares: bool = True
    settles: int | None = None
    lift: Lift = lift_to_least_or_last
    lifts_waiting_nowhere: bool = False


VARIANTS = (
    Variant("local levels, as it is"),
    Variant("the same, guard 5 %", guard=0.05),
    Variant("the same, guard 10 %", guard=0.1),
    Variant("levels settled every 3 steps", settles=3),
    Variant("levels settled so, guard 5 %", guard=0.05, settles=3),
    Variant("control: no limit to debts", part=None),
    Variant("control: H / 15", part=1 / 15),
    Variant("control: lift only who waits nowhere", part=None, lifts_waiting_nowhere=True),
    Variant("control: no lift", part=None, lift=no_lift),
    Variant("independent queues", shares=False),
)


class Shares(FairQueue):
    """Also without a lift. waits: whether a client waits at any scheduler, or nobody asks."""

    waits: Callable[[str], bool] | None = None

    @property
    def can_share(self) -> bool:
        """Whatever comes of it."""
        return True

    def _reorder(self, node: Node, *, lifted: bool = True, keep_lead: bool = False) -> None:
        if self.waits is not None and node.client is not None and self.waits(node.client):
            lifted = False
        super()._reorder(node, lifted=lifted, keep_lead=keep_lead)


def serve(variant: Variant, size: int, every: int, h: float, waves: list[PlacedWave]) -> Cluster:
    """Serve an attack."""
    most = None if variant.part is None else variant.part * h * size * U
    policies = [Shares(lift=variant.lift) for _ in range(size)]
    for policy in policies:
        policy.share(max_debt=most, guard=variant.guard, most_credit=U / 4)
    cluster = Cluster(
        policies, MEMORY, every=every if variant.shares else None, settles=variant.settles
    )
    if variant.lifts_waiting_nowhere:
        for n, policy in enumerate(policies):
            policy.waits = partial(_waits_elsewhere, cluster, n)
    cluster.run([job for wave in waves for job in wave.jobs()][:JOBS], STEPS)
    return cluster


def _waits_elsewhere(cluster: Cluster, member: int, client: str) -> bool:
    others = (n for n in range(len(cluster.servers)) if n != member)
    return any(cluster.ledger.queued(n, client) for n in others)


def attack(variant: Variant, every: int, h: float, question: str) -> float:
    """The largest difference found, in U; by workloads with so little charged that H is enough."""
    best = 0.0
    for size in SIZES:
        draw = random.Random(size)
        waves, level = random_placed(draw, size), 0.0
        for _ in range(TRIES):
            other = mutate_placed(waves, draw, size)
            cluster = serve(variant, size, every, h, other)
            reached = getattr(cluster.ledger, question) / (size * U)
            charged = cluster.ledger.most_charged(cluster.oldest) / (size * U) if every else 0.0
            if reached >= level and 1 + 2 * charged <= h:
                waves, level = other, reached
        best = max(best, level)
    return best


def section() -> str:
    """The part of the page."""
    columns = [(q, every, h) for q in ("at_all", "at_one") for every, h in SETTINGS]
    heads = [f"{_TITLES[q]}, every {every}" for q, every, _ in columns]
    rows = [f"| | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(columns)]
    for variant in VARIANTS:
        print(f"attacking many: {variant.title}", file=sys.stderr)
        found = [f"{attack(variant, every, h, q):.2f}" for q, every, h in columns]
        rows.append(f"| {variant.title} | {' | '.join(found)} |")
    bounds = [2 * h + (1 if q == "at_all" else 1 / max(SIZES)) for q, _, h in columns]
    told = [
        f"{bound:.3g}{' + 2A' * bool(e)}" for bound, (_, e, _) in zip(bounds, columns, strict=True)
    ]
    rows.append(f"| **bound** | {' | '.join(told)} |")
    return SECTION.format(
        settle=SETTLE_S,
        tries=TRIES,
        h=SETTINGS[0][1],
        h_stale=SETTINGS[1][1],
        table="\n".join(rows),
    )


if __name__ == "__main__":
    print(section())
