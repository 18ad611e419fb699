"""An obvious model of FairQueue: exact fractions, plain lists, and a scan for every question."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from fairlane.core.cost import Cost
from fairlane.core.counters import Lift
from fairlane.core.predict import Predictor
from fairlane.core.types import Outcome, Request, RequestId

Path = tuple[str, ...]


@dataclass
class Member:
    """A client or a group, known since the `known`-th arrival of a new name."""

    known: int
    counter: Fraction = Fraction(0)
    waiting: list[Request] = field(default_factory=list)
    running: dict[RequestId, Request] = field(default_factory=dict)
    in_order: bool = False
    lead: Fraction = Fraction(0)
    idle_since: int | None = None  # how often was forgotten before it went idle


@dataclass
class Book:
    """What a request was charged for."""

    output: int = 0
    covered: Fraction = Fraction(0)
    admission: Fraction | None = None
    advance: Fraction = Fraction(0)


class Model:
    """FairQueue's rules with nothing in between."""

    def __init__(
        self,
        cost: Cost,
        lift: Lift,
        predictor: Predictor | None,
        path_of: Callable[[str], Path],
        weights: dict[Path, Fraction],
        max_running: int | None,
        max_running_tokens: int | None,
        max_advance: float | None,
        max_idle: int,
    ) -> None:
        self.cost, self.lift, self.predictor, self.path_of = cost, lift, predictor, path_of
        self.weights = weights
        self.max_running, self.max_running_tokens = max_running, max_running_tokens
        self.max_advance, self.max_idle = max_advance, max_idle
        self.known = 0
        self.forgettings = 0
        self.start: dict[Path, Fraction] = {}  # by group: where unknown members begin
        self.members: dict[Path, Member] = {}
        self.books: dict[RequestId, Book] = {}
        self.last: dict[Path, Member] = {}  # by group: which child left the order last

    def enqueue(self, request: Request) -> None:
        path = self.path_of(request.client)
        for depth in range(1, len(path) + 1):
            name = path[:depth]
            if name not in self.members:
                self.known += 1
                self.members[name] = Member(self.known, self.start.get(name[:-1], Fraction(0)))
            self.members[name].idle_since = None
        self.members[path].waiting.append(request)
        self.books[request.id] = Book()
        self.reorder(path)

    def peek(self) -> Request | None:
        path: Path = ()
        while True:
            children = self.ordered(path)
            if not children:
                return None
            path = min(children, key=lambda p: (self.members[p].counter, self.members[p].known))
            if self.members[path].waiting:
                return self.members[path].waiting[0]

    def admit(self, request: Request, cached: int) -> None:
        path, book = self.path_of(request.client), self.books[request.id]
        self.members[path].waiting.remove(request)
        self.members[path].running[request.id] = request
        if book.admission is None:
            book.admission = Fraction(self.cost.admission(request.prompt_tokens, cached))
            if self.predictor is not None:
                expected = Fraction(max(0.0, self.predictor.predict(request)))
                advance = self.output(request, Fraction(0), expected)
                live = [*self.members[path].waiting, *self.members[path].running.values()]
                outstanding = sum((self.books[r.id].advance for r in live), Fraction(0))
                if self.max_advance is None or outstanding + advance <= self.max_advance:
                    book.covered, book.advance = expected, advance
            self.charge(path, book.admission + self.prepaid(request))
        self.reorder(path)

    def tokens(self, request: Request, count: int) -> None:
        path, book = self.path_of(request.client), self.books[request.id]
        before = self.prepaid(request)
        start, book.output = book.output, book.output + count
        delivered = self.output(request, Fraction(start), Fraction(book.output))
        self.charge(path, delivered + self.prepaid(request) - before)

    def tokens_reported(self, requests: list[Request]) -> None:
        for request in requests:
            self.reorder(self.path_of(request.client))

    def settle(self, old: Request, new: Request, cached: int, output: int | None) -> None:
        """All that was charged is taken back, and charged for the true numbers."""
        path, book = self.path_of(old.client), self.books[old.id]
        member = self.members[path]
        self.charge(path, -self.charged(old))
        if old in member.waiting:
            member.waiting[member.waiting.index(old)] = new
        else:
            member.running[new.id] = new
        if book.admission is not None:
            book.admission = Fraction(self.cost.admission(new.prompt_tokens, cached))
        if output is not None:
            book.output = output
        book.advance = self.output(new, Fraction(0), book.covered)
        self.charge(path, self.charged(new))
        live = [*member.waiting, *member.running.values()]
        outstanding = sum((self.books[r.id].advance for r in live), Fraction(0))
        if book.covered and self.max_advance is not None and outstanding > self.max_advance:
            self.charge(path, -self.prepaid(new))
            book.covered, book.advance = Fraction(0), Fraction(0)
        self.reorder(path)

    def charged(self, request: Request) -> Fraction:
        book = self.books[request.id]
        delivered = self.output(request, Fraction(0), Fraction(book.output))
        return (book.admission or Fraction(0)) + delivered + self.prepaid(request)

    def charge_again(self, request: Request) -> None:
        book = self.books[request.id]
        if book.output > book.covered:
            step = self.output(request, Fraction(book.output - 1), Fraction(book.output))
            self.charge(self.path_of(request.client), step)

    def requeue(self, request: Request, undo: bool) -> None:
        path, book = self.path_of(request.client), self.books[request.id]
        undone = undo and not book.output
        if undone and book.admission is not None:
            self.charge(path, -book.admission - self.prepaid(request))
            book.admission, book.covered, book.advance = None, Fraction(0), Fraction(0)
        del self.members[path].running[request.id]
        self.members[path].waiting.insert(0, request)
        self.reorder(path, lifted=not undone, keep_lead=True)

    def finish(self, request: Request, outcome: Outcome) -> None:
        path, book = self.path_of(request.client), self.books[request.id]
        member = self.members[path]
        if request.id in member.running:
            del member.running[request.id]
        else:
            member.waiting.remove(request)
        self.charge(path, -self.prepaid(request))
        if outcome is Outcome.FINISHED and self.predictor is not None:
            self.predictor.observe(request, book.output)
        del self.books[request.id]
        self.reorder(path)
        self.retire(path)

    def set_weight(self, path: Path, weight: Fraction) -> None:
        """What is prepaid is taken back at the old weight and charged at the new one."""
        if path in self.members:
            prepaid = sum(
                (
                    self.prepaid(request)
                    for other, member in self.members.items()
                    if other[: len(path)] == path
                    for request in [*member.waiting, *member.running.values()]
                ),
                Fraction(0),
            )
            self.members[path].counter += prepaid / weight - prepaid / self.weight(path)
        self.weights[path] = weight

    def restart(self) -> None:
        """Everyone is idle; how long is not remembered, nor is what will not be asked again."""
        for member in self.members.values():
            member.idle_since, member.lead = self.forgettings, Fraction(0)

    def retire(self, path: Path) -> None:
        """Clients without requests, and groups without others, go idle; then some are forgotten."""
        for depth in range(len(path), 0, -1):
            name = path[:depth]
            inside = [m for p, m in self.members.items() if p[:depth] == name]
            if any(m.waiting or m.running for m in inside):
                break
            self.members[name].idle_since = self.forgettings
        young = [m for m in self.members.values() if m.idle_since == self.forgettings]
        if young and 2 * len(young) >= self.max_idle and not self.live(path):
            self.forgettings += 1
            self.forget()

    def live(self, path: Path) -> bool:
        return bool(self.members[path].waiting or self.members[path].running)

    def forget(self) -> None:
        """Drop who was idle when two forgettings began, and raise where unknown ones begin."""
        for name, member in list(self.members.items()):
            if member.idle_since is not None and self.forgettings - member.idle_since >= 2:
                del self.members[name]
                group = name[:-1]
                self.start[group] = max(self.start.get(group, Fraction(0)), member.counter)
        for group in {*self.start, *self.last}:
            if group and group not in self.members:
                self.start.pop(group, None)
                self.last.pop(group, None)

    # -- in terms of which all that is said --------------------------------------------------

    def weight(self, path: Path) -> Fraction:
        return self.weights.get(path, Fraction(1))

    def ordered(self, group: Path) -> list[Path]:
        return [p for p, m in self.members.items() if p[:-1] == group and m.in_order]

    def output(self, request: Request, start: Fraction, stop: Fraction) -> Fraction:
        return Fraction(self.cost.output(request.prompt_tokens, float(start), float(stop)))

    def prepaid(self, request: Request) -> Fraction:
        """The price of what is covered beyond what was delivered; delivered tokens are paid."""
        book = self.books[request.id]
        if book.covered <= book.output:
            return Fraction(0)
        return self.output(request, Fraction(book.output), book.covered)

    def charge(self, path: Path, amount: Fraction) -> None:
        for depth in range(1, len(path) + 1):
            self.members[path[:depth]].counter += amount / self.weight(path[:depth])

    def belongs(self, path: Path) -> bool:
        member = self.members[path]
        if self.ordered(path):
            return True
        tokens = sum(r.prompt_tokens + self.books[r.id].output for r in member.running.values())
        return (
            bool(member.waiting)
            and (self.max_running is None or len(member.running) < self.max_running)
            and (self.max_running_tokens is None or tokens < self.max_running_tokens)
        )

    def reorder(self, path: Path, *, lifted: bool = True, keep_lead: bool = False) -> None:
        """Move a client, then each group above it, into or out of the order, if it must."""
        for depth in range(len(path), 0, -1):
            child = path[:depth]
            member, group = self.members[child], child[:-1]
            if self.belongs(child) == member.in_order:
                continue
            others = [self.members[p].counter for p in self.ordered(group) if p != child]
            if not member.in_order:
                if lifted:
                    self.raise_to_others(child, others, member.lead if keep_lead else Fraction(0))
                member.in_order = True
            else:
                member.in_order = False
                self.last[group] = member
                member.lead = max(Fraction(0), min(others, default=member.counter) - member.counter)

    def raise_to_others(self, child: Path, others: list[Fraction], lead: Fraction) -> None:
        last = self.last.get(child[:-1])
        floor = self.lift(
            float(min(others)) if others else None,
            None if last is None else float(last.counter),
        )
        if floor is not None:
            member = self.members[child]
            member.counter = max(member.counter, Fraction(floor) - lead)
