"""Limits of clients and what is told of them, on every host of the door, over real sockets."""

import json
from concurrent.futures import ThreadPoolExecutor

from tests.door.conftest import Start
from tests.door.town import Town
from tests.talking import bearer, until


def test_limits_answer_as_openai_does(town: Town, start: Start) -> None:
    key = town.add("small", requests_per_minute=2, tokens_per_minute=1000)
    with start(town) as host:
        answer = host.send(key, prompt_tokens=100)
        assert answer.status == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        assert host.sender(key) == "small"
        assert host.left(key) == {"requests": 0, "tokens": 1000 - 101 - 2}
        answer = host.send(key)
        assert answer.status == 429
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert json.loads(answer.text)["error"] == {
            "message": "Your limit of requests per minute is reached. Try again in 30 s.",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
        host.now += 30
        assert host.send(key).status == 200
        assert "x-ratelimit-limit-requests" not in host.send(town.keys["alice"]).headers


def test_tokens_that_are_used_up_come_back_with_time(town: Town, start: Start) -> None:
    key = town.add("small", tokens_per_minute=600)
    with start(town) as host:
        assert host.sender(key, prompt_tokens=599) == "small"
        answer = host.send(key)
        assert (answer.status, json.loads(answer.text)["error"]["type"]) == (429, "tokens")
        assert answer.headers["retry-after"] == "1"
        host.now += 0.5
        assert host.send(key).status == 200


def test_strangers_have_the_configurations_limits(town: Town, start: Start) -> None:
    tables = {"identity": {"anonymous": "guest"}, "limits": {"requests_per_minute": 1}}
    with start(town, **tables) as host:
        assert host.sender(None) == "guest"
        assert host.send(None).refusal == (429, "rate_limit_exceeded")
        assert [host.send(town.keys["alice"]).status for _ in range(3)] == [200] * 3


def test_questions_cost_no_requests_and_are_told_what_is_left(town: Town, start: Start) -> None:
    key = town.add("small", requests_per_minute=1)
    with start(town) as host:
        for path in ("/v1/models", "/fairlane/tenants") * 3:
            answer = host.ask("GET", path, bearer(key))
            assert answer.status == 200
        assert host.left(key) == {"requests": 1}
        assert host.send(key).status == 200


def test_two_thousand_wrong_keys_leave_no_trace_in_memory(town: Town, start: Start) -> None:
    with start(town) as host:
        with ThreadPoolExecutor(4) as pool:
            wrong = [f"fl-{number:048}" for number in range(2_000)]
            assert {answer.status for answer in pool.map(host.send, wrong)} == {401}
        admission = host.door.admission
        assert len(admission.rates) == len(admission.waiting) == len(admission.rejected) == 0


def test_more_than_max_running_wait_and_more_than_max_queued_are_turned_away(
    town: Town, start: Start
) -> None:
    key = town.add("small", max_running=2, max_queued=3)
    with start(town) as host:
        host.hold()
        with ThreadPoolExecutor(3) as pool:
            senders = [pool.submit(host.send, key) for _ in range(3)]
            until(lambda: host.door.admission.waiting.get("small") == 3)
            until(lambda: host.inside() == 2)
            answer = host.send(key)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert host.ask("GET", "/v1/models", bearer(key)).status == 200
            host.release()
            assert [sender.result().status for sender in senders] == [200, 200, 200]
        assert host.reached() == {"small": 3}
        assert host.inside() == 3
        assert host.door.admission.waiting == {}
        assert host.door.turns.inside("small") == 0
