"""The benchmarks that need vLLM run, shortened."""

import pytest

from tests.test_benchmarks import OF_VLLM, run_quick


@pytest.mark.parametrize("name", sorted(OF_VLLM))
def test_a_benchmark_prints_numbers(name: str) -> None:
    assert run_quick(name)[0]
