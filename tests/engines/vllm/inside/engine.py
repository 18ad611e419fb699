"""A vLLM scheduler without an engine: real requests, real KV block accounting, made-up tokens."""

import json
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import torch
from vllm.config import (
    CacheConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    VllmConfig,
)  # fmt: skip
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from fairlane.engines.vllm.clients import label
from fairlane.engines.vllm.scheduling import FairAsyncScheduler, FairScheduler

BLOCK = 16
MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128,
    "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4,
    "num_hidden_layers": 2, "vocab_size": 512, "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip


@cache
def tiny_model() -> str:
    """A folder with the configuration of a tiny Llama, and no weights."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-llama-"))
    (folder / "config.json").write_text(json.dumps(MODEL))
    return str(folder)


def make_scheduler(
    *,
    fair: bool = True,
    run_ahead: bool = False,
    seqs: int = 4,
    batch_tokens: int = 512,
    blocks: int = 1000,
    max_loras: int | None = None,
    prefix_caching: bool = False,
    policy: str = "fcfs",
) -> Any:
    """A scheduler as vLLM's engine makes it; `fair` ones read FAIRLANE_CONFIG."""
    model = ModelConfig(
        model=tiny_model(), dtype="float32", seed=0, skip_tokenizer_init=True, max_model_len=1024
    )
    cache_config = CacheConfig(block_size=BLOCK, enable_prefix_caching=prefix_caching)
    cache_config.num_gpu_blocks = blocks
    config = VllmConfig(
        scheduler_config=SchedulerConfig(
            max_num_seqs=seqs, max_num_batched_tokens=batch_tokens, max_model_len=1024,
            enable_chunked_prefill=True, async_scheduling=run_ahead, is_encoder_decoder=False,
            policy=policy, watermark=0.0,
        ),
        model_config=model,
        cache_config=cache_config,
        parallel_config=ParallelConfig(),
        lora_config=None if max_loras is None else LoRAConfig(max_loras=max_loras, max_lora_rank=8),
    )  # fmt: skip
    attention = FullAttentionSpec(
        block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    kinds = {
        (True, False): FairScheduler, (True, True): FairAsyncScheduler,
        (False, False): Scheduler, (False, True): AsyncScheduler,
    }  # fmt: skip
    return kinds[fair, run_ahead](
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], attention)],
        ),
        block_size=BLOCK,
        log_stats=True,
        structured_output_manager=StructuredOutputManager(config),
    )


def make_request(
    request_id: str,
    client: str | None = None,
    *,
    prompt: int | list[int] = 32,
    output: int = 16,
    adapter: int | None = None,
    **params: Any,
) -> Request:
    """A request of so many tokens, or of these; `output` tokens long."""
    init_none_hash(sha256)
    sampling = SamplingParams(max_tokens=output, ignore_eos=True, **params)
    sampling.update_from_generation_config({}, 2)
    if client is not None:
        label(sampling, client)
    tokens = [hash(request_id) % 400 + 5] * prompt if isinstance(prompt, int) else prompt
    return Request(
        request_id=request_id,
        prompt_token_ids=tokens,
        sampling_params=sampling,
        pooling_params=None,
        lora_request=adapter and LoRARequest(f"adapter-{adapter}", adapter, "/nowhere"),
        block_hasher=get_request_block_hasher(BLOCK, sha256),
    )


def run_model(scheduler: Any, batch: Any, count: int = 1) -> ModelRunnerOutput:
    """What a model would answer to a batch: `count` tokens for whoever is done with its prompt."""
    ids = list(batch.num_scheduled_tokens)
    tokens = []
    for request_id in ids:
        request = scheduler.requests.get(request_id)
        tokens.append([] if request is None or request.is_prefill_chunk else [7] * count)
    return ModelRunnerOutput(
        req_ids=ids,
        req_id_to_index={request_id: i for i, request_id in enumerate(ids)},
        sampled_token_ids=tokens,
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )


class Delivered(Counter[str]):
    """Output tokens by request, as the engine hands them out; `ended`: who finished, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[str, str] = {}

    def take(self, outputs: dict[int, Any]) -> None:
        """Count what a step gave."""
        for batch in outputs.values():
            for output in batch.outputs:
                self[output.request_id] += len(output.new_token_ids)
                if output.finish_reason is not None:
                    self.ended[output.request_id] = str(output.finish_reason)


def step(scheduler: Any, delivered: Delivered | None = None, count: int = 1) -> Any:
    """One turn of the engine; its batch."""
    batch = scheduler.schedule()
    outputs = scheduler.update_from_output(batch, run_model(scheduler, batch, count))
    if delivered is not None:
        delivered.take(outputs)
    return batch


def run(scheduler: Any, delivered: Delivered, steps: int = 10_000) -> int:
    """Turns until nothing is left, at most so many; how many it took."""
    for number in range(steps):
        if not scheduler.has_unfinished_requests():
            return number
        step(scheduler, delivered)
    return steps
