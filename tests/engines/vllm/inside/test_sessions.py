"""Requests that stream their input, as realtime routes make them: each turn charged once.

Those routes need models of speech, which no CPU build serves; their requests look like this.
"""

from typing import Any

import pytest
from engine import Delivered, make_request, make_scheduler, run, step


def piece(client: str, *, prompt: int, output: int, last: bool = False) -> Any:
    """A piece of the session's input; the last one only ends it."""
    request = make_request("session", client, prompt=prompt, output=output)
    request.resumable = not last
    return request


def until_it_rests(scheduler: Any, delivered: Delivered, tokens: int) -> None:
    """Steps until the session has so many tokens, and then some."""
    for _ in range(200):
        step(scheduler, delivered)
        if delivered["session"] == tokens:
            break
    for _ in range(3):
        step(scheduler, delivered)
    assert delivered["session"] == tokens


@pytest.mark.parametrize("run_ahead", [False, True])
def test_each_turn_of_a_session_is_charged_once_to_who_began_it(run_ahead: bool) -> None:
    scheduler, delivered = make_scheduler(run_ahead=run_ahead, seqs=2), Delivered()
    for i in range(6):
        scheduler.add_request(make_request(f"bob-{i}", "bob", output=20))
    scheduler.add_request(piece("alice", prompt=20, output=5))
    until_it_rests(scheduler, delivered, 5)
    scheduler.add_request(piece("mallory", prompt=30, output=7))
    until_it_rests(scheduler, delivered, 12)
    scheduler.add_request(piece("alice", prompt=1, output=1, last=True))
    run(scheduler, delivered)
    clients = scheduler.fairlane_snapshot()["clients"]
    assert set(clients) == {"alice", "bob"}
    alice = clients["alice"]
    assert (alice["input_tokens"], alice["output_tokens"]) == (20 + 30, 5 + 7)
    assert alice["service"] == 50 + 2 * 12
    assert (alice["queued"], alice["running"]) == (0, 0)
    assert alice["finished"] + alice["aborted"] == alice["arrivals"]
    assert clients["bob"]["output_tokens"] == 6 * 20


@pytest.mark.parametrize("fair", [False, True])
def test_a_session_keeps_its_slot_while_it_rests_as_in_vllm_alone(fair: bool) -> None:
    scheduler, delivered = make_scheduler(fair=fair, seqs=2), Delivered()
    scheduler.add_request(piece("alice", prompt=20, output=5))
    until_it_rests(scheduler, delivered, 5)
    for i in range(2):
        scheduler.add_request(make_request(f"bob-{i}", "bob", output=4))
    for expected in (0, 4):
        assert delivered["bob-1"] == 0
        assert delivered["bob-0"] == expected
        for _ in range(4):
            step(scheduler, delivered)
    scheduler.add_request(piece("alice", prompt=10, output=3))
    until_it_rests(scheduler, delivered, 8)
    assert delivered["bob-1"] == 4
