"""vLLM's own schedulers with a fair queue: who is served, and what is charged."""

import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine import Delivered, make_request, make_scheduler, run, run_model, step
from vllm.v1.request import RequestStatus

from fairlane.engines.vllm.private import check_version


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the configuration that the next scheduler reads."""
    path = tmp_path / "fairlane.toml"

    def write(text: str) -> None:
        path.write_text(text)
        monkeypatch.setenv("FAIRLANE_CONFIG", str(path))

    monkeypatch.delenv("FAIRLANE_CONFIG", raising=False)
    return write


def offer(scheduler: Any, demand: dict[str, int], **options: Any) -> None:
    """Queue each client's requests, mixed in proportion to what they send."""
    left = dict(demand)
    number = 0
    while any(left.values()):
        client = max(left, key=lambda name: left[name] / demand[name])
        left[client] -= 1
        number += 1
        scheduler.add_request(make_request(f"{client}-{number}", client, **options))


def tokens_by_client(delivered: Delivered) -> Counter[str]:
    totals: Counter[str] = Counter()
    for request_id, count in delivered.items():
        totals[request_id.split("-")[0]] += count
    return totals


def ratio_while_both_wait(scheduler: Any, demand: dict[str, int], steps: int = 600) -> float:
    """Output tokens of the client "a" for each one of "b", while both have requests waiting."""
    offer(scheduler, demand)
    delivered = Delivered()
    for _ in range(steps):
        if len({request.request_id[0] for request in scheduler.waiting}) < 2:
            break
        step(scheduler, delivered)
    totals = tokens_by_client(delivered)
    return totals["a"] / totals["b"]


# -- shares ----------------------------------------------------------------------------------


@pytest.mark.parametrize("run_ahead", [False, True])
def test_twice_the_load_gives_no_larger_share(run_ahead: bool) -> None:
    demand = {"a": 200, "b": 100}
    fair = ratio_while_both_wait(make_scheduler(run_ahead=run_ahead), demand)
    assert fair == pytest.approx(1.0, rel=0.1)
    stock = ratio_while_both_wait(make_scheduler(fair=False, run_ahead=run_ahead), demand)
    assert stock == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("name", ["vtc", "drr"])
def test_weights_divide_the_service(config: Any, name: str) -> None:
    config(f'[scheduler]\nname = "{name}"\n[weights]\nb = 3.0\n')
    assert ratio_while_both_wait(make_scheduler(), {"a": 200, "b": 200}) == pytest.approx(
        1 / 3, rel=0.1
    )


@pytest.mark.parametrize("name", ["vtc", "drr"])
def test_weights_can_change_while_requests_wait(config: Any, name: str) -> None:
    config(f'[scheduler]\nname = "{name}"\n')
    scheduler = make_scheduler()
    scheduler.fairlane_set_weights({"b": 3.0})
    assert ratio_while_both_wait(scheduler, {"a": 200, "b": 200}) == pytest.approx(1 / 3, rel=0.1)


def test_first_come_first_served_claims_no_weights_and_no_bound(config: Any) -> None:
    config('[scheduler]\nname = "fcfs"\n[weights]\nb = 3.0\n')
    scheduler = make_scheduler()
    scheduler.fairlane_set_weights({"a": 2.0})
    assert ratio_while_both_wait(scheduler, {"a": 200, "b": 100}) == pytest.approx(2.0, rel=0.1)
    seen = scheduler.fairlane_snapshot()
    assert (seen["weighted"], seen["shares"], seen["bound"]) == (False, False, None)
    assert {client["weight"] for client in seen["clients"].values()} == {1.0}


def test_groups_share_before_their_members(config: Any) -> None:
    config("[scheduler]\ngroups = true\n")
    scheduler = make_scheduler()
    for number in range(100):
        for member in ("x/1", "x/2", "x/3", "y/1"):
            request = make_request(f"{member}-{number}", member)
            scheduler.add_request(request)
    delivered = Delivered()
    for _ in range(400):
        step(scheduler, delivered)
    totals: Counter[str] = Counter()
    for request_id, count in delivered.items():
        totals[request_id[0]] += count
    assert totals["x"] / totals["y"] == pytest.approx(1.0, rel=0.1)


def longest_wait(scheduler: Any) -> int:
    """Steps to the first token of a light client's requests, in a flood of another's."""
    for number in range(400):
        scheduler.add_request(make_request(f"flood-{number}", "flood", output=20))
    delivered, worst = Delivered(), 0
    for number in range(20):
        for _ in range(7):
            step(scheduler, delivered)
        light = f"light-{number}"
        scheduler.add_request(make_request(light, "light", output=2))
        steps = 0
        while not delivered[light] and steps < 300:
            step(scheduler, delivered)
            steps += 1
        worst = max(worst, steps)
    return worst


def test_a_flood_delays_a_light_client_by_one_wave_at_most() -> None:
    """A wave: the 20 steps in which each running request is replaced."""
    assert longest_wait(make_scheduler()) <= 20 + 1
    assert longest_wait(make_scheduler(fair=False)) == 300


# -- charges ---------------------------------------------------------------------------------


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("preemption", ["newest", "fairest"])
def test_charges_are_what_was_delivered(config: Any, run_ahead: bool, preemption: str) -> None:
    """Long prompts in pieces, too little memory, and a client that hangs up now and then."""
    config(f'[scheduler]\npreemption = "{preemption}"\n')
    dice = random.Random(3)
    scheduler = make_scheduler(run_ahead=run_ahead, seqs=6, batch_tokens=48, blocks=24)
    delivered, prompts = Delivered(), {}
    for number in range(60):
        request_id = f"{'ab'[number % 2]}-{number}"
        prompts[request_id] = dice.randrange(1, 150)
        scheduler.add_request(
            make_request(
                request_id, request_id[0], prompt=prompts[request_id],
                output=dice.randrange(1, 120),
            )
        )  # fmt: skip
    admitted: set[str] = set()
    while scheduler.has_unfinished_requests():
        step(scheduler, delivered)
        admitted |= {r.request_id for r in scheduler.running}
        admitted |= {i for i, n in delivered.items() if n}
        if dice.random() < 0.03:
            gone = dice.choice(list(scheduler.requests))
            for _ in range(2):  # the second time must not matter
                scheduler.finish_requests(gone, RequestStatus.FINISHED_ABORTED)
    snapshot = scheduler.fairlane_snapshot()
    assert sum(row["preemptions"] for row in snapshot["clients"].values()) > 5
    assert sum(row["aborted"] for row in snapshot["clients"].values()) > 3
    for client, row in snapshot["clients"].items():
        output = tokens_by_client(delivered)[client]
        prompt = sum(prompts[i] for i in admitted if i[0] == client)
        assert (row["input_tokens"], row["output_tokens"]) == (prompt, output)
        assert row["service"] == prompt + 2 * output
        assert (row["queued"], row["running"]) == (0, 0)
        assert row["finished"] + row["aborted"] == row["arrivals"] == 30
    assert snapshot["policy_errors"] == 0


def test_the_policys_counter_is_the_service_of_a_client_that_is_alone() -> None:
    scheduler = make_scheduler(seqs=3, batch_tokens=32, blocks=12)
    for number in range(10):
        request = make_request(f"a-{number}", "a", prompt=40 + number, output=30)
        scheduler.add_request(request)
    rows = []
    for _ in range(60):
        step(scheduler)
        rows.append(scheduler.fairlane_snapshot()["clients"]["a"])
    assert rows[-1]["preemptions"] > 0
    assert all(row["counter"] == row["service"] for row in rows if row["counter"] is not None)


def test_cached_prompts_are_charged_at_the_cached_price() -> None:
    scheduler = make_scheduler(prefix_caching=True)
    delivered = Delivered()
    prompt = list(range(10, 74))
    for number in range(2):
        scheduler.add_request(make_request(f"a-{number}", "a", prompt=prompt, output=4))
        run(scheduler, delivered)
    row = scheduler.fairlane_snapshot()["clients"]["a"]
    cached = 48  # whole blocks of the prompt but for its last token
    assert (row["input_tokens"], row["cached_tokens"]) == (128 - cached, cached)
    assert row["service"] == pytest.approx(128 - cached + 0.1 * cached + 2 * 8, abs=1e-4)


def test_tokens_beyond_the_end_are_not_charged() -> None:
    """As speculative decoding samples them: three in a step, of which the last may be too many."""
    scheduler = make_scheduler()
    scheduler.add_request(make_request("a-1", "a", prompt=8, output=7))
    delivered = Delivered()
    while scheduler.has_unfinished_requests():
        step(scheduler, delivered, count=3)
    assert delivered["a-1"] == 7
    assert scheduler.fairlane_snapshot()["clients"]["a"]["output_tokens"] == 7


def test_output_of_a_step_that_an_abort_overtook_is_not_charged() -> None:
    scheduler = make_scheduler(run_ahead=True)
    delivered = Delivered()
    scheduler.add_request(make_request("a-1", "a", output=50))
    for _ in range(5):
        step(scheduler, delivered)
    batch = scheduler.schedule()
    answer = run_model(scheduler, batch)
    scheduler.finish_requests("a-1", RequestStatus.FINISHED_ABORTED)
    delivered.take(scheduler.update_from_output(batch, answer))
    row = scheduler.fairlane_snapshot()["clients"]["a"]
    assert row["output_tokens"] == delivered["a-1"] == 5
    assert row["aborted"] == 1


def test_ten_thousand_queued_requests_can_be_dropped_at_once() -> None:
    scheduler = make_scheduler()
    ids = [f"a-{number}" for number in range(10_000)]
    for request_id in ids:
        scheduler.add_request(make_request(request_id, "a", prompt=4))
    scheduler.finish_requests(ids, RequestStatus.FINISHED_ABORTED)
    assert not scheduler.has_unfinished_requests()
    row = scheduler.fairlane_snapshot()["clients"]["a"]
    assert (row["queued"], row["running"], row["aborted"], row["service"]) == (0, 0, 10_000, 0.0)


@pytest.mark.parametrize("run_ahead", [False, True])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_prompts_that_were_never_begun_are_told_once(run_ahead: bool, policy: str) -> None:
    scheduler = make_scheduler(seqs=2, batch_tokens=64, run_ahead=run_ahead, policy=policy)
    for number in range(4):
        scheduler.add_request(make_request(f"a-{number}", "a", prompt=[5 + number] * 100))
    step(scheduler)  # the first 64 tokens of the first
    ids = [f"a-{number}" for number in range(4)]
    scheduler.finish_requests(ids, RequestStatus.FINISHED_ABORTED)
    assert scheduler.fairlane_unread(["unknown", *ids]) == ids[1:]
    assert scheduler.fairlane_unread(ids) == []


def test_an_id_that_is_used_again_does_not_make_its_new_prompt_unread() -> None:
    scheduler = make_scheduler()
    scheduler.add_request(make_request("a-1", "a"))
    scheduler.finish_requests("a-1", RequestStatus.FINISHED_ABORTED)
    scheduler.add_request(make_request("a-1", "a"))
    step(scheduler)
    scheduler.finish_requests("a-1", RequestStatus.FINISHED_ABORTED)
    assert scheduler.fairlane_unread(["a-1"]) == []


def test_a_prompt_that_was_read_and_preempted_counts_as_begun() -> None:
    scheduler = make_scheduler(seqs=4, blocks=10)
    for number in range(4):
        scheduler.add_request(make_request(f"a-{number}", "a", prompt=31, output=100))
    preempted: list[str] = []
    while not preempted:
        step(scheduler)
        preempted = [r.request_id for r in scheduler.requests.values() if r.num_preemptions]
    ids = [f"a-{number}" for number in range(4)]
    scheduler.finish_requests(ids, RequestStatus.FINISHED_ABORTED)
    assert scheduler.fairlane_unread(ids) == []


def test_usage_is_told_once_by_client_and_model(config: Any) -> None:
    """As it flows; under the adapter that was asked for, or the engine's own model."""
    scheduler = make_scheduler(max_loras=2)
    assert scheduler.fairlane_take_usage() == ([], [])
    for number in range(4):
        scheduler.add_request(make_request(f"a-{number}", "a", adapter=number % 2 or None))
    delivered, told = Delivered(), Counter[tuple[str, str, str]]()
    takes = 0
    while scheduler.has_unfinished_requests():
        step(scheduler, delivered)
        used, refused = scheduler.fairlane_take_usage()
        assert refused == []
        for client, model, requests, fresh, cached, output, *_ in used:
            told[client, model, "requests"] += requests
            told[client, model, "input"] += fresh + cached
            told[client, model, "output"] += output
            takes += output > 0
    assert takes > 4
    for model in ("", "adapter-1"):
        assert told["a", model, "requests"] == 2
        assert (told["a", model, "input"], told["a", model, "output"]) == (2 * 32, 2 * 16)
    assert scheduler.fairlane_take_usage() == ([], [])


# -- what waits for something else -----------------------------------------------------------


def test_a_request_whose_grammar_is_not_ready_holds_up_nobody_and_costs_nothing() -> None:
    class NotYet:
        grammar = None

    scheduler = make_scheduler(seqs=1)
    scheduler.add_request(make_request("b-0", "b", prompt=100, output=100))
    step(scheduler)
    slow = make_request("a-1", "a", prompt=500)
    slow.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
    slow.structured_output_request = NotYet()
    scheduler.add_request(slow)
    scheduler.add_request(make_request("a-2", "a", output=2))
    scheduler.finish_requests("b-0", RequestStatus.FINISHED_ABORTED)
    for _ in range(2):
        batch = step(scheduler)
        assert list(batch.num_scheduled_tokens) == ["a-2"]
    row = scheduler.fairlane_snapshot()["clients"]["a"]
    assert row["service"] == 32 + 2 * 2
    slow.structured_output_request = None
    slow.status = RequestStatus.WAITING
    assert list(step(scheduler).num_scheduled_tokens) == ["a-1"]


def served_with_one_slot(scheduler: Any, steps: int) -> Counter[str]:
    """Two clients, an adapter each, one slot, a sends twice as much: tokens of each."""
    dice = random.Random(5)
    for number in range(120):
        client = "aab"[number % 3]
        output = dice.randrange(16, 113)
        adapter = 1 + "ab".index(client)
        scheduler.add_request(
            make_request(f"{client}-{number}", client, output=output, adapter=adapter)
        )
    delivered = Delivered()
    for _ in range(steps):
        step(scheduler, delivered)
    return tokens_by_client(delivered)


def test_one_adapter_slot_changes_hands() -> None:
    """The running adapter keeps the slot for ever in vLLM, as long as its client has requests."""
    stock = served_with_one_slot(make_scheduler(fair=False, seqs=8, max_loras=1), 600)
    assert stock["b"] == 0
    fair = served_with_one_slot(make_scheduler(seqs=8, max_loras=1), 600)
    assert 0.6 < fair["a"] / fair["b"] < 1.7


def test_less_patience_brings_adapters_closer(config: Any) -> None:
    differences = []
    for patience in (1000, 100_000):
        config(f"[scheduler]\nadapter_patience = {patience}\n")
        scheduler = make_scheduler(seqs=8, max_loras=1)
        served_with_one_slot(scheduler, 600)
        differences.append(scheduler.fairlane_snapshot()["observed_difference"])
    assert differences[0] < differences[1] / 2


# -- preemption ------------------------------------------------------------------------------


def first_victim(preemption: str, config: Any) -> str:
    """Client b comes last and is entitled to more when memory runs out: who is preempted first."""
    config(f'[scheduler]\npreemption = "{preemption}"\n[weights]\nb = 100.0\n')
    scheduler = make_scheduler(seqs=4, blocks=24)
    delivered = Delivered()
    for number in range(2):
        scheduler.add_request(make_request(f"a-{number}", "a", prompt=60, output=200))
    for _ in range(40):
        step(scheduler, delivered)
    for number in range(2):
        scheduler.add_request(make_request(f"b-{number}", "b", prompt=60, output=200))
    victim = ""
    while scheduler.has_unfinished_requests():
        step(scheduler, delivered)
        preempted = [r.request_id for r in scheduler.waiting if r.num_preemptions]
        victim = victim or "".join(preempted)
    assert set(delivered.values()) == {200}
    return victim


def test_preemption_can_take_from_the_client_that_holds_most_memory(config: Any) -> None:
    assert first_victim("newest", config) == "b-1"
    assert first_victim("fairest", config) == "a-1"


def preemptions_of_a_clients_only_request(preemption: str, config: Any) -> int:
    """It is long, and comes when another client's many short ones have filled the memory."""
    config(f'[scheduler]\npreemption = "{preemption}"\n')
    scheduler = make_scheduler(seqs=16, blocks=41)
    for number in range(150):
        scheduler.add_request(
            make_request(f"many-{number}", "many", prompt=20, output=40 + number % 40)
        )
    delivered = Delivered()
    for _ in range(60):
        step(scheduler, delivered)
    long = make_request("long", "long", prompt=60, output=200)
    scheduler.add_request(long)
    while "long" not in delivered.ended:
        step(scheduler, delivered)
    assert delivered["long"] == 200
    return int(long.num_preemptions)


def test_a_client_can_keep_its_only_request_however_long_it_is(config: Any) -> None:
    assert preemptions_of_a_clients_only_request("newest", config) > 0
    assert preemptions_of_a_clients_only_request("fairest", config) == 0


def test_what_groups_hold_counts_before_what_their_members_hold(config: Any) -> None:
    """Of group x, three members with two requests each; y/1 holds three requests, the most."""
    config('[scheduler]\npreemption = "fairest"\ngroups = true\n')
    scheduler = make_scheduler(seqs=9, blocks=24)
    clients = ["x/1", "x/1", "x/2", "x/2", "x/3", "x/3", "y/1", "y/1", "y/1"]
    for number, client in enumerate(clients):
        group = client.split("/")[0]
        scheduler.add_request(make_request(f"{group}-{number}", client, prompt=20, output=60))
    preempted: set[str] = set()
    for _ in range(40):
        step(scheduler)
        preempted |= {r.request_id for r in scheduler.waiting if r.num_preemptions}
        if preempted:
            break
    assert {request_id[0] for request_id in preempted} == {"x"}


# -- identity --------------------------------------------------------------------------------


@pytest.mark.parametrize("forged", ["b", 7, ["b"], None])
def test_a_name_that_a_body_could_hold_is_not_believed(forged: object) -> None:
    scheduler = make_scheduler()
    request = make_request("r-1", extra_args={"fairlane_client": forged, "client": "b"})
    request.request_id = "b"
    scheduler.add_request(request)
    assert set(scheduler.fairlane_snapshot()["clients"]) == {"anonymous"}


def test_adapters_are_clients_where_that_is_configured(config: Any) -> None:
    config("[identity]\nlora = true\n")
    scheduler = make_scheduler(max_loras=2)
    scheduler.add_request(make_request("1", adapter=1))
    scheduler.add_request(make_request("2"))
    scheduler.add_request(make_request("3", "alice", adapter=1))
    assert set(scheduler.fairlane_snapshot()["clients"]) == {"adapter-1", "anonymous", "alice"}


# -- when the policy is wrong ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["enqueue", "admit", "record_tokens", "peek", "requeue"])
def test_when_the_policy_raises_that_request_fails_and_the_others_go_on(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make_scheduler(seqs=3, batch_tokens=64, blocks=14)
    policy = scheduler._books._policy
    genuine = getattr(policy, method)

    def broken(*args: Any, **kwargs: Any) -> Any:
        subject = args[0]
        ids = subject if isinstance(subject, dict) else [getattr(subject, "id", subject)]
        if method == "peek":
            waiting = policy.snapshot().clients.get("bad")
            concerned = waiting is not None and waiting.queued > 0
        else:
            concerned = any(str(i).startswith("bad") for i in ids)
        if concerned:
            raise RuntimeError("a mistake in a policy")
        return genuine(*args, **kwargs)

    monkeypatch.setattr(policy, method, broken)
    delivered = Delivered()
    scheduler.add_request(make_request("bad-1", "bad", prompt=20, output=60))
    scheduler.add_request(make_request("bad-2", "bad", prompt=20, output=60))
    for number in range(5):
        scheduler.add_request(make_request(f"good-{number}", "good", prompt=20, output=60))
    with caplog.at_level(logging.ERROR):
        assert run(scheduler, delivered) < 1000
    assert {i for i, reason in delivered.ended.items() if reason == "error"} <= {"bad-1", "bad-2"}
    assert "error" in delivered.ended.values()
    assert all(delivered.ended[f"good-{n}"] == "length" for n in range(5))
    snapshot = scheduler.fairlane_snapshot()
    assert snapshot["policy_errors"] > 0
    assert all(row["queued"] == row["running"] == 0 for row in snapshot["clients"].values())
    logged = [r for r in caplog.records if r.name.startswith("fairlane")]
    assert len(logged) == len({r.getMessage() for r in logged})
    assert all(r.exc_info is not None for r in logged)


def test_what_a_policy_turns_away_ends_without_output(config: Any) -> None:
    config('[scheduler]\nname = "rpm"\nrate_limit = 2\n')
    scheduler = make_scheduler()
    for number in range(5):
        scheduler.add_request(make_request(f"a-{number}", "a", output=3))
    delivered = Delivered()
    run(scheduler, delivered)
    assert sorted(delivered.ended.values()) == ["abort"] * 3 + ["length"] * 2
    assert scheduler.fairlane_snapshot()["clients"]["a"]["rejected"] == {"rate_limit": 3}
    turned_away = [i for i, why in delivered.ended.items() if why == "abort"]
    assert sorted(scheduler.fairlane_unread(list(delivered.ended))) == sorted(turned_away)


# -- vLLM's own choices ----------------------------------------------------------------------


def test_priority_scheduling_is_left_alone() -> None:
    fair, stock = (make_scheduler(fair=f, policy="priority") for f in (True, False))
    orders = []
    for scheduler in (fair, stock):
        for number, priority in enumerate((5, 1, 3, 0, 4, 2)):
            request = make_request(f"{number}", "a")
            request.priority = priority
            scheduler.add_request(request)
        delivered = Delivered()
        run(scheduler, delivered)
        orders.append(list(delivered.ended))
    assert orders[0] == orders[1]
    assert type(fair.waiting) is type(stock.waiting)
    assert fair.fairlane_snapshot() == {"policy": "vllm-priority", "clients": {}}


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("0.25.1", True), ("0.32.0+cpu", True), ("0.33.4", True),
        ("0.25.0", False), ("0.34.0", False), ("1.0", False), ("dev", False),
    ],
)  # fmt: skip
def test_a_version_that_was_not_tested_is_warned_about(
    version: str, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert check_version(version) is known
    assert bool(caplog.records) is not known
