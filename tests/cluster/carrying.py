"""Members of a pool over a hub that loses, repeats and delays what they say, and a ledger of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from fairlane.cluster.hub import GRAIN, Pull, Push
from fairlane.cluster.member import Member

CLIENTS = "abc"


class Step(NamedTuple):
    """What happens next; `which` picks among members, pushes or answers, as `what` has it."""

    what: str
    which: int
    client: str = "a"
    grains: int = 0


_WHICH = st.integers(0, 10**6)
STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.just("charge"), _WHICH, st.sampled_from(CLIENTS), st.integers(-9, 9)),
        st.builds(Step, st.sampled_from(["send", "deliver", "answer", "exchange"]), _WHICH),
    ),
    max_size=60,
)


class Pool:
    """Members, every push and answer that there ever was, and what each charged and heard."""

    def __init__(self, members: Sequence[Member], ask: Callable[[Push], Pull]) -> None:
        self.members = members
        self.charged: list[Counter[str]] = [Counter() for _ in members]
        self.heard: list[Counter[str]] = [Counter() for _ in members]
        self.past: list[Counter[str] | None] = [None for _ in members]  # before its first answer
        self._waits: list[Counter[str]] = [Counter() for _ in members]  # charged, not begun
        self._ask = ask
        self._pushes: list[tuple[int, Push]] = []
        self._answers: list[tuple[int, Pull]] = []

    def run(self, steps: Iterable[Step]) -> None:
        """Do as told, and then let everyone hear everything."""
        for step in steps:
            match step.what:
                case "charge":
                    self.charge(step.which % len(self.members), step.client, step.grains)
                case "send":
                    self.send(step.which % len(self.members))
                case "deliver" if self._pushes:
                    self.deliver(step.which % len(self._pushes))
                case "answer" if self._answers:
                    self.answer(step.which % len(self._answers))
                case "exchange":
                    self.exchange(step.which % len(self.members))
        self.settle()

    def charge(self, who: int, client: str, grains: int) -> None:
        self.charged[who][client] += grains
        self._waits[who][client] += grains

    def send(self, who: int) -> None:
        charges = {client: grains * GRAIN for client, grains in self._waits[who].items()}
        self._waits[who].clear()
        self._pushes.append((who, self.members[who].begin(charges)))

    def deliver(self, which: int) -> None:
        who, push = self._pushes[which]
        self._answers.append((who, self._ask(push)))

    def answer(self, which: int) -> None:
        who, pull = self._answers[which]
        news = self.members[who].heard(pull)
        if self.past[who] is None:
            assert not news
            self.past[who] = Counter({client: total.grains for client, total in pull.sums.items()})
        self.heard[who].update({client: round(news[client] / GRAIN) for client in news})

    def exchange(self, who: int) -> None:
        """Send, deliver and answer."""
        self.send(who)
        self.deliver(-1)
        self.answer(-1)

    def settle(self) -> None:
        """Everyone joins, pushes all that it has, and hears all of it."""
        for _ in range(4):
            for who in range(len(self.members)):
                self.exchange(who)

    def check(self) -> None:
        """Everyone heard exactly what the others charged since its first answer."""
        for who, past in enumerate(self.past):
            assert past is not None
            for client in CLIENTS:
                of_others = sum(c[client] for i, c in enumerate(self.charged) if i != who)
                assert self.heard[who][client] == of_others - past[client]
