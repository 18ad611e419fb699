"""The simulator's batches are those of vLLM's own schedulers, step by step."""

import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine import make_request, make_scheduler, run_model

from fairlane.policies.registry import create_policy
from fairlane.simulator.batching import Batch, BatchScheduler
from fairlane.workloads.trace import TracedRequest

BLOCK = 16
WEIGHTS = {"b": 2.0}


@dataclass(frozen=True)
class Engine:
    """What a scheduler is made with; blocks include the one that vLLM keeps for itself."""

    run_ahead: bool
    seqs: int
    batch_tokens: int
    blocks: int


def workload(seed: int, count: int, longest: int) -> list[tuple[int, TracedRequest]]:
    """(step at which it arrives, request): bursts and silences, single tokens, long prompts."""
    dice = random.Random(seed)
    step, made = 0, []
    for number in range(count):
        step += dice.choice((0, 0, 0, 1, 5, 40))
        prompt = dice.choice((1, BLOCK, dice.randint(1, longest), dice.randint(1, longest)))
        output = dice.choice((1, 2, dice.randint(1, longest)))
        client = dice.choice("aab")
        made.append((step, TracedRequest(number, client, float(step), prompt, output)))
    return made


Step = tuple[dict[int, int], list[int], list[int]]


def as_vllm(engine: Engine, arrivals: list[tuple[int, TracedRequest]], fair: bool) -> list[Step]:
    """Of each step: tokens by request in batch order, who was preempted, and who then ended."""
    scheduler = make_scheduler(
        fair=fair, run_ahead=engine.run_ahead, seqs=engine.seqs,
        batch_tokens=engine.batch_tokens, blocks=engine.blocks,
    )  # fmt: skip
    coming, under_way, steps = deque(arrivals), deque[Any](), list[Step]()
    while coming or scheduler.has_unfinished_requests():
        while coming and coming[0][0] <= len(steps):
            request = coming.popleft()[1]
            made = make_request(
                str(request.id), request.client, prompt=request.prompt_len,
                output=request.output_len,
            )  # fmt: skip
            scheduler.add_request(made)
        batch = scheduler.schedule()
        under_way.append((batch, run_model(scheduler, batch)))
        ended: list[int] = []
        if len(under_way) > engine.run_ahead:
            outputs = scheduler.update_from_output(*under_way.popleft())
            ended = [
                int(output.request_id)
                for answers in outputs.values()
                for output in answers.outputs
                if output.finish_reason is not None
            ]
        tokens = {int(name): count for name, count in batch.num_scheduled_tokens.items()}
        steps.append((tokens, sorted(map(int, batch.preempted_req_ids or ())), ended))
    return steps


def as_simulated(
    engine: Engine, arrivals: list[tuple[int, TracedRequest]], policy: str, preemption: str
) -> list[Step]:
    """The same of the simulator."""
    fair = {"weights": WEIGHTS} if policy == "vtc" else {}
    scheduler = BatchScheduler(
        [request for _, request in arrivals], create_policy(policy, **fair), max_seqs=engine.seqs,
        token_budget=engine.batch_tokens, blocks=engine.blocks - 1, block_size=BLOCK,
        preemption=preemption, weights=WEIGHTS,
    )  # fmt: skip
    coming, under_way, steps = deque(arrivals), deque[Batch](), list[Step]()
    while coming or scheduler.running or scheduler.waiting:
        now = float(len(steps))
        while coming and coming[0][0] <= len(steps):
            assert scheduler.add(coming.popleft()[1].id, now) is None
        batch = scheduler.schedule(now)
        under_way.append(batch)
        ended: list[int] = []
        if len(under_way) > engine.run_ahead:
            ended = scheduler.update(under_way.popleft(), now)[1]
        tokens = {part.live.position: part.tokens for part in batch.parts}
        steps.append((tokens, sorted(batch.preempted), ended))
    return steps


ENGINES = {
    "roomy": {"seqs": 16, "batch_tokens": 512, "blocks": 1000},
    "small budget": {"seqs": 16, "batch_tokens": 48, "blocks": 1000},
    "few at a time": {"seqs": 3, "batch_tokens": 64, "blocks": 1000},
    "little memory": {"seqs": 16, "batch_tokens": 128, "blocks": 30},
    "one at a time in memory": {"seqs": 8, "batch_tokens": 40, "blocks": 26},
}


@pytest.mark.parametrize("policy", ["vtc, fairest", "vtc, newest", "fcfs"])
@pytest.mark.parametrize("run_ahead", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", ENGINES)
def test_every_step_is_vllms(
    kind: str, run_ahead: bool, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, preemption = policy.partition(", ")
    config = tmp_path / "fairlane.toml"
    config.write_text(f'[scheduler]\npreemption = "{preemption}"\n[weights]\nb = 2.0\n')
    monkeypatch.setenv("FAIRLANE_CONFIG", str(config))
    fair = name != "fcfs"
    engine = Engine(run_ahead=run_ahead, **ENGINES[kind])
    preempted = 0
    for seed in range(6):
        arrivals = workload(seed, count=60, longest=190)
        real = as_vllm(engine, arrivals, fair)
        simulated = as_simulated(engine, arrivals, name, preemption or "newest")
        for number, (theirs, ours) in enumerate(zip(real, simulated, strict=False)):
            assert list(ours[0].items()) == list(theirs[0].items()), (seed, number)
            assert ours[1:] == theirs[1:], (seed, number)
        assert len(real) == len(simulated)
        preempted += sum(len(step[1]) for step in real)
    assert (preempted > 20) is ("memory" in kind)
