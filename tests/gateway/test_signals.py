"""What engines tell of their load is understood, and nonsense is not."""

import pytest

from fairlane.gateway.signals import Load, from_loads, from_metrics

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 14.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 3.0
vllm:e2e_request_latency_seconds_bucket{le="0.3"} 0.0
"""


def test_vllms_engines_are_added_up() -> None:
    assert from_metrics(VLLM) == Load(16, 3)


@pytest.mark.parametrize(
    ("running", "waiting"),
    [
        ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
        ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
        ("tgi_batch_current_size", "tgi_queue_size"),
        ("trtllm_num_requests_running", "trtllm_num_requests_waiting"),
    ],
)
def test_other_engines_have_their_own_words(running: str, waiting: str) -> None:
    text = f"# TYPE {running} gauge\n{running} 5\n# TYPE {waiting} gauge\n{waiting} 7\nother 3\n"
    assert from_metrics(text) == Load(5, 7)


@pytest.mark.parametrize(
    "text",
    [
        "", "<html>", "vllm:num_requests_running 3\n", "vllm:num_requests_running{ 3\n",
        "vllm:num_requests_running NaN\nvllm:num_requests_waiting 1\n",
        "vllm:num_requests_running -1\nvllm:num_requests_waiting 1\n",
        "vllm:num_requests_running x\nvllm:num_requests_waiting 1\n",
    ],
)  # fmt: skip
def test_what_is_no_load_is_none(text: str) -> None:
    assert from_metrics(text) is None


def test_sglang_tells_each_rank() -> None:
    ranks = '[{"num_running_reqs": 3, "num_waiting_reqs": 1}, {"num_running_reqs": 2, '
    ranks += '"num_waiting_reqs": 0}]'
    assert from_loads(ranks) == Load(5, 1)
    assert from_loads(f'{{"loads": {ranks}}}') == Load(5, 1)
    for nonsense in ("", "3", "[3]", "{}", '[{"num_running_reqs": "x"}]', "null"):
        assert from_loads(nonsense) is None
