"""The database of usage: sums that are true whoever writes, how often, and at the same time."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from fairlane.core.errors import FairlaneError
from fairlane.usage.config import Keeping
from fairlane.usage.errors import StoreError, WrongSchema
from fairlane.usage.ledger import Ledger
from fairlane.usage.reading import Where, parse_by, parse_time, report
from fairlane.usage.rows import Batch, Spent
from fairlane.usage.store import Store
from fairlane.usage.tally import Grown

NOON = datetime(2026, 3, 31, 12, 30, tzinfo=UTC).timestamp()
HOUR = 3600.0
Opened = Callable[[], Store]
DAY = 24 * HOUR


def grown(**tokens: int) -> Grown:
    """Output of clients; a double underscore is a slash."""
    used = {
        (name.replace("__", "/"), "m"): [1, 0, 0, n, 2.0 * n, 0.5] for name, n in tokens.items()
    }
    return Grown({key: [float(n) for n in numbers] for key, numbers in used.items()})


def batch(at: float = NOON, **tokens: int) -> Batch:
    made = Batch()
    made.add(grown(**tokens), at, 1000)
    return made


def outputs(store: Store, *by: str, **where: object) -> dict[str, int]:
    rows = report(store, by, Where(**where))  # type: ignore[arg-type]
    return {"|".join(row[word] for word in by): row["output_tokens"] for row in rows}


def test_a_batch_that_is_written_again_changes_nothing(opened: Opened) -> None:
    """Not by the same server or process alone: by its number."""
    store, other = opened(), opened()
    assert store.write("w", 1, batch(a=5), NOON)
    for again in (store, other, opened()):
        assert not again.write("w", 1, batch(a=5), NOON)
    assert other.write("w", 2, batch(a=1), NOON)
    assert not store.write("w", 1, batch(a=5), NOON)
    assert outputs(store, "tenant") == {"a": 6}


def test_servers_that_write_at_once_lose_and_double_nothing(opened: Opened) -> None:
    """The same rows, in other orders; each batch twice, as after an answer that got lost."""
    names = [f"c{i}" for i in range(20)]

    def work(number: int) -> Counter[str]:
        store, sent = opened(), Counter[str]()
        for sequence in range(1, 11):
            turned = names[number:] + names[:number]
            tokens = {name: 1 + (i + sequence) % 7 for i, name in enumerate(turned)}
            sent.update(tokens)
            for _ in range(2):
                store.write(f"w{number}", sequence, batch(**tokens), NOON)
        return sent

    with ThreadPoolExecutor(6) as pool:
        sent = sum(pool.map(work, range(6)), Counter[str]())
    store = opened()
    assert outputs(store, "tenant") == sent
    [row] = report(store, [], Where())
    assert (row["requests"], row["output_tokens"]) == (6 * 10 * 20, sent.total())
    assert row["service"] == pytest.approx(2.0 * sent.total())


def test_reports_by_time_model_and_group(opened: Opened) -> None:
    store = opened()
    more = Batch()
    for at, tokens in ((NOON, 1), (NOON + HOUR, 10), (NOON + DAY, 100)):
        more.add(grown(team__a=tokens, team__b=tokens, teamx=tokens, te_m=tokens), at, 1000)
    more.add(Grown(refused=Counter({("team/a", "", "queue_full"): 3})), NOON, 1000)
    store.write("w", 1, more, NOON)
    assert outputs(store, "day", tenant="team") == {"2026-03-31": 22, "2026-04-01": 200}
    assert outputs(store, "month", tenant="team/a") == {"2026-03": 11, "2026-04": 100}
    assert outputs(store, "hour", tenant="te_m") == {
        "2026-03-31T12": 1, "2026-03-31T13": 10, "2026-04-01T12": 100,
    }  # fmt: skip
    assert outputs(store, "tenant", tenant="team", members=False) == {}
    now = datetime.fromtimestamp(NOON + DAY, UTC)
    assert outputs(store, "tenant", since=parse_time("today", now))["teamx"] == 100
    assert outputs(store, "tenant", until=parse_time("2026-03-31T13", now))["teamx"] == 1
    assert outputs(store, "tenant", since=parse_time("23h", now))["teamx"] == 110
    [refused] = [r for r in report(store, ["tenant", "model"], Where()) if r["refused"]]
    assert (refused["tenant"], refused["model"]) == ("team/a", "")
    assert refused["refused"] == {"queue_full": 3}


def test_groups_have_spent_what_their_members_did(opened: Opened) -> None:
    store = opened()
    store.write("w", 1, batch(team__eng__a=3, team__b=4, other=5), NOON)
    store.write("w", 2, batch(NOON + DAY, team=10), NOON)
    spent = store.spent([("2026-03-31", "team"), ("2026-03", "team/eng"), ("2026-04", "team")])
    assert spent == {
        ("2026-03-31", "team"): Spent(7, 14.0),
        ("2026-03", "team/eng"): Spent(3, 6.0),
        ("2026-04", "team"): Spent(10, 20.0),
    }


def test_what_is_old_or_unwanted_is_deleted(opened: Opened) -> None:
    store = opened()
    for sequence, days in enumerate((0, 40, 80), 1):
        store.write("w", sequence, batch(NOON + days * DAY, a=1, a__b=1, ab=1), NOON)
    store.forget(NOON + 40 * DAY)
    assert outputs(store, "month") == {"2026-05": 3, "2026-06": 3}
    spent = store.spent([("2026-03", "a"), ("2026-05", "a"), ("2026-06-19", "a")])
    assert spent.keys() == {("2026-05", "a"), ("2026-06-19", "a")}
    assert store.delete("a") > 0
    assert outputs(store, "tenant") == {"ab": 2}
    assert store.delete("a") == 0


def test_no_name_and_no_number_stops_what_is_written(opened: Opened) -> None:
    odd = ["", "%", "_", "a/%", "'; DROP TABLE x; --", "日本" * 900, "\ud800", "a\0b", "x" * 5000]
    made = Batch()
    for name in odd:
        used = {(name, name): [1.0, 10.0**30, -(10.0**30), 0.0, 1.0, 0.0]}
        made.add(Grown(used, Counter({(name, name, name): 1})), NOON, 1000)
    store = opened()
    store.write("w", 1, made, NOON)
    rows = report(store, ["tenant", "model"], Where())
    assert len(rows) == len(odd)
    assert sum(row["requests"] for row in rows) == len(odd)


def test_what_cannot_be_kept_apart_in_memory_is_kept_together() -> None:
    made = Batch()
    made.add(grown(**{f"c{i}": 1 for i in range(50)}), NOON, 20)
    assert len(made) <= 21
    assert sum(used.output_tokens for used in made.used.values()) == 50


def test_a_database_of_another_version_is_left_alone(opened: Opened) -> None:
    store = opened()
    store.write("w", 1, batch(a=1), NOON)
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE fairlane_schema SET version = 99"))
    with pytest.raises(WrongSchema, match="version 99"):
        opened().write("w", 2, batch(a=1), NOON)


def test_whoever_only_reads_makes_nothing(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.sqlite")
    with closing(other), other:
        other.execute("CREATE TABLE theirs (x)")
        with pytest.raises(WrongSchema, match="holds no usage"):
            report(Store(str(tmp_path / "other.sqlite"), makes=False), [], Where())
        names = other.execute("SELECT name FROM sqlite_master").fetchall()
    assert names == [("theirs",)]


def test_a_file_that_is_no_database_is_a_problem_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no database at all, but long enough to look like one" * 100)
    with pytest.raises(StoreError) as caught:
        Store(str(tmp_path / "x")).spent([])
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "x") in str(caught.value)


def test_a_ledger_keeps_what_it_cannot_write_and_its_sums_stay_true(tmp_path: Path) -> None:
    """Whatever is in memory, in the database, or both: `unwritten` and what is read are the sum."""
    file = tmp_path / "usage.sqlite"
    keeping = replace(Keeping(), database=str(file))
    ledger = Ledger(keeping.store(), 400, lambda: NOON)
    key = ("2026-03-31", "a")
    file.mkdir()  # a database that cannot be opened
    for round_ in range(3):
        ledger.add(grown(a=1 + round_))
        ledger.prepare()
        with pytest.raises(StoreError):
            ledger.exchange([key])
        ledger.failed("it cannot")
    assert ledger.unwritten(*key).tokens == 6
    file.rmdir()
    for left in (5, 0):  # first the batch that had failed, then what had grown meanwhile
        ledger.prepare()
        sums = ledger.exchange([key])
        ledger.written()
        assert ledger.unwritten(*key).tokens == left
        assert sums[key].tokens + left == 6
    assert (ledger.pending, ledger.report.failures) == (0, 3)


def test_words_of_reports_are_checked() -> None:
    now = datetime.fromtimestamp(NOON, UTC)
    for wrong in ("", "tenant,", "tenant,tenant", "day,hour", "user"):
        with pytest.raises(FairlaneError):
            parse_by(wrong)
    for wrong in ("", "yesterday", "2026-13-01", "2026-1-", "999999d", "1.5d", "2026-01-01T25"):
        with pytest.raises(FairlaneError):
            parse_time(wrong, now)
    assert parse_time("2026-03", now) == parse_time("2026-03-01T00", now)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"database": "none/usage.sqlite"}, "there is no folder"),
        ({"every_s": 1.0}, "database is missing"),
        ({"database": "mysql://x/y"}, "must be a file, or an address"),
        ({"database": "postgresql://host"}, "must be a file, or an address"),
        ({"database": "postgresql://u:p@h/d", "password_env": "X"}, "remove one"),
        ({"database": "x", "password_env": "X"}, "password_env is for a database on a server"),
        ({"database": "x", "keep_days": 7}, "keep_days"),
        ({"database": "x", "soft_weight": 0}, "soft_weight"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tmp_path: Path, table: dict[str, object], said: str
) -> None:
    with pytest.raises(FairlaneError, match=said) as caught:
        Keeping.parse(table, tmp_path)
    assert "\n" not in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_the_address_that_is_told_has_no_password() -> None:
    assert "secret" not in Store("postgresql://u:secret@127.0.0.1:1/d").name
    with pytest.raises(StoreError) as caught:
        Store("postgresql://u:secret@127.0.0.1:1/d").spent([])
    assert "secret" not in str(caught.value)
