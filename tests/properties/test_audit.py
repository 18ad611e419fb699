"""The auditor between two truths: it never claims more than the exact O(n^2) one finds, and no
pair exceeds what it says is the most.
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlane.core.audit import Auditor
from fairlane.core.types import RequestId
from tests.driving import fewer_examples, fresh, req
from tests.properties.exact_audit import ExactAuditor

POLICIES = ["fcfs", "vtc", "lcf", "vtc-predict", "round-robin", "drr"]


def drive(
    name: str, seed: int, clients: int, steps: int, churn: float, wrong: float = 0.0
) -> tuple[float, Auditor]:
    """A random server: arrivals that may empty the queues, batches of 4, preemptions.

    wrong: how often it takes back what it charged, an admission or a part of it.
    """
    draw = random.Random(seed)
    policy, auditor, exact = fresh(name), Auditor(), ExactAuditor()
    policy.watch(exact)
    policy.watch(auditor)
    running: list[RequestId] = []
    prompts = [draw.choice([1, 10, 60]) for _ in range(clients)]
    for step in range(steps):
        for number in range(draw.choice([0, 1, 2])):
            client = min(int(draw.expovariate(3 / clients)), clients - 1)
            policy.enqueue(req((step, number), f"c{client}", prompts[client]), 0)
        while len(running) < 4 and (request := policy.peek(0)) is not None:
            policy.admit(request.id, 0)
            running.append(request.id)
            if wrong and draw.random() < wrong:
                policy.requeue(running.pop(), 0, undo=True)
        policy.record_tokens(dict.fromkeys(running, draw.choice([1, 5])), 0)
        for request_id in running if wrong else ():
            if draw.random() < wrong:
                prompt, output = draw.choice([0, 5, 30]), draw.choice([None, 0, 40])
                policy.settle(request_id, 0, prompt_tokens=prompt, output_tokens=output)
        for request_id in list(running):
            if draw.random() < churn:
                running.remove(request_id)
                if draw.random() < 0.2:
                    policy.requeue(request_id, 0, undo=draw.random() < 0.5)
                else:
                    policy.finish(request_id, 0)
    return exact.observed, auditor


@pytest.mark.parametrize("name", POLICIES)
@fewer_examples()
@given(
    seed=st.integers(0, 10**6),
    clients=st.integers(2, 12),
    steps=st.integers(1, 200),
    churn=st.sampled_from([0.05, 0.2, 0.5]),
    wrong=st.sampled_from([0.0, 0.05, 0.3]),
)
def test_the_auditor_finds_the_largest_difference_of_any_pair_and_interval(
    name: str, seed: int, clients: int, steps: int, churn: float, wrong: float
) -> None:
    truth, auditor = drive(name, seed, clients, steps, churn, wrong)
    report = auditor.report()
    assert report.observed == truth
    assert truth <= report.at_most


@pytest.mark.parametrize("name", POLICIES)
def test_with_more_clients_than_pairs_the_truth_is_bracketed(name: str) -> None:
    for seed in range(3):
        truth, auditor = drive(name, seed, 80, 300, 0.05)
        report = auditor.report()
        assert truth / 2 < report.observed <= truth <= report.at_most
