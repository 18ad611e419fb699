"""A whole vLLM engine in this process, with a tiny random Llama: charges against what came out."""

import json
from typing import Any

import pytest
from engine import tiny_model
from vllm import LLM, SamplingParams

from fairlane.engines.vllm.clients import label


@pytest.fixture(scope="module")
def llm() -> LLM:
    """Prompts in pieces of 64 tokens, prefix caching, four at a time, hardly any memory."""
    return LLM(
        model=tiny_model(),
        load_format="dummy",
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=512,
        max_num_seqs=4,
        max_num_batched_tokens=64,
        block_size=32,
        num_gpu_blocks_override=20,
        enable_prefix_caching=True,
        scheduler_cls="fairlane.engines.vllm.scheduler",
        disable_log_stats=True,
    )


def params(client: str, output: int, **options: Any) -> SamplingParams:
    sampling = SamplingParams(max_tokens=output, ignore_eos=True, detokenize=False, **options)
    label(sampling, client)
    return sampling


def rows(llm: LLM) -> dict[str, Any]:
    """The snapshot as the HTTP server gets it."""
    core: Any = llm.llm_engine.engine_core
    clients: dict[str, Any] = json.loads(json.dumps(core.engine_core.fairlane_snapshot()))[
        "clients"
    ]
    return clients


def prompt(number: int, length: int) -> dict[str, Any]:
    return {"prompt_token_ids": [5 + (number * 7 + i) % 400 for i in range(length)]}


def test_each_of_n_answers_is_charged_once(llm: LLM) -> None:
    wanted = [("ann", 3, 100), ("bob", 1, 200), ("ann", 2, 70), ("bob", 4, 40)]
    outputs = llm.generate(
        [prompt(number, length) for number, (_, _, length) in enumerate(wanted)],
        [params(client, 40 + number, n=n) for number, (client, n, _) in enumerate(wanted)],
        use_tqdm=False,
    )
    found = rows(llm)
    for client in ("ann", "bob"):
        row = found[client]
        own = [(o, n, k) for o, (name, n, k) in zip(outputs, wanted, strict=True) if name == client]
        tokens = sum(len(answer.token_ids) for output, _, _ in own for answer in output.outputs)
        assert row["output_tokens"] == tokens
        assert row["input_tokens"] + row["cached_tokens"] == sum(n * k for _, n, k in own)
        assert row["cached_tokens"] > 0
        assert row["service"] == pytest.approx(
            row["input_tokens"] + 0.1 * row["cached_tokens"] + 2 * tokens, abs=1e-3
        )
        assert row["admissions"] == row["finished"] == sum(n for _, n, _ in own)


def test_preempted_and_aborted_requests_are_charged_for_what_came_out(llm: LLM) -> None:
    engine = llm.llm_engine
    for number in range(8):
        client = "cid" if number % 2 else "dee"
        engine.add_request(f"{client}-{number}", prompt(50 + number, 120), params(client, 150))
    delivered: dict[str, int] = {}
    step = 0
    while engine.has_unfinished_requests():
        for output in engine.step():
            delivered[output.request_id] = len(output.outputs[0].token_ids)
        step += 1
        if step == 60:
            engine.abort_request([max(delivered)])
    found = rows(llm)
    assert found["cid"]["preemptions"] + found["dee"]["preemptions"] > 0
    assert found["cid"]["aborted"] + found["dee"]["aborted"] == 1
    for client in ("cid", "dee"):
        total = sum(count for name, count in delivered.items() if name.startswith(client))
        assert found[client]["output_tokens"] == total
        assert found[client]["input_tokens"] + found[client]["cached_tokens"] == 4 * 120


def test_twice_the_requests_give_no_larger_share(llm: LLM) -> None:
    engine = llm.llm_engine
    for number in range(90):
        client = "eve" if number % 3 else "fay"
        engine.add_request(f"{client}-{number}", prompt(number, 24), params(client, 20))
    while engine.has_unfinished_requests():
        engine.step()
        found = rows(llm)
        if not all(found[client]["queued"] for client in ("eve", "fay")):
            break
    assert found["eve"]["service"] / found["fay"]["service"] == pytest.approx(1.0, rel=0.1)
    engine.abort_request([f"{'eve' if n % 3 else 'fay'}-{n}" for n in range(90)])
    while engine.has_unfinished_requests():
        engine.step()
    after = rows(llm)
    assert after["eve"]["running"] == after["fay"]["queued"] == 0
