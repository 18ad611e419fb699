"""Whether a build of vLLM computes what it should: its output beside transformers' in float32.

    python -m tools.check_build [--output check.json]

A small Llama with random weights that matter (not those of `--load-format dummy`, which are next
to nothing) answers prompts of five lengths. At every position of the answers the token that vLLM
chose is held against transformers' most likely one, and vLLM's log-probabilities of its five best
tokens against transformers'. The yardstick is transformers' own bfloat16, on the same device.

Needs what vLLM itself brings, torch and transformers, and nothing of Fairlane.
"""

import argparse
import json
import os
import random
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import torch
import vllm
from transformers import LlamaConfig, LlamaForCausalLM

LENGTHS = (5, 50, 300, 1000, 2500)  # tokens of prompts
ANSWER = 16
BEST = 5
VOCABULARY = 32_000
Prompts = list[list[int]]


@dataclass
class Agreement:
    """How far something agrees with float32, over all positions."""

    positions: int = 0
    same_token: int = 0
    differences: list[float] = field(default_factory=list, repr=False)

    def told(self) -> dict[str, float]:
        """In numbers."""
        return {
            **{name: n for name, n in asdict(self).items() if name != "differences"},
            "mean_difference": round(sum(self.differences) / len(self.differences), 4),
            "largest_difference": round(max(self.differences), 4),
        }


def write_model(folder: Path) -> None:
    """Four layers of a Llama, in bfloat16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=VOCABULARY, max_position_embeddings=4096,
        initializer_range=0.06, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def answers(folder: Path, prompts: Prompts) -> list[tuple[list[int], list[dict[int, float]]]]:
    """The tokens of vLLM, and the log-probabilities of the best at every position."""
    engine = vllm.LLM(
        model=str(folder), skip_tokenizer_init=True, dtype="bfloat16", enforce_eager=True,
        max_model_len=4096, gpu_memory_utilization=0.1, kv_cache_memory_bytes=1 << 30,
        enable_prefix_caching=False,
    )  # fmt: skip
    how = vllm.SamplingParams(
        temperature=0, max_tokens=ANSWER, ignore_eos=True, logprobs=BEST, detokenize=False
    )
    found = []
    for answer in engine.generate([{"prompt_token_ids": p} for p in prompts], how):
        (chosen,) = answer.outputs
        likely = [{t: v.logprob for t, v in at.items()} for at in chosen.logprobs or []]
        found.append((list(chosen.token_ids), likely))
    return found


def likelihoods(model: Any, prompt: list[int], answer: list[int], device: str) -> Any:
    """Log-probabilities of transformers at the positions of an answer, in float32."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer[:-1]], device=device)).logits
    return torch.log_softmax(logits[0, len(prompt) - 1 :].float(), -1)


def check() -> dict[str, Any]:
    """Everything; what is in the output."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rng = random.Random(1)
    prompts = [[rng.randrange(3, VOCABULARY) for _ in range(length)] for length in LENGTHS]
    built, yardstick = Agreement(), Agreement()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        answered = answers(Path(folder), prompts)
        # read twice: a model converted back keeps rotary frequencies that were rounded
        exact, rounded = (
            LlamaForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
            for dtype in (torch.float32, torch.bfloat16)
        )
    for prompt, (tokens, likely) in zip(prompts, answered, strict=True):
        right = likelihoods(exact, prompt, tokens, device)
        usual = likelihoods(rounded, prompt, tokens, device)
        best = right.argmax(-1)
        built.positions += len(tokens)
        yardstick.positions += len(tokens)
        built.same_token += int((best == torch.tensor(tokens, device=device)).sum())
        yardstick.same_token += int((best == usual.argmax(-1)).sum())
        for i, at in enumerate(likely):
            built.differences += [
                abs(value - float(right[i, token])) for token, value in at.items()
            ]
        top = usual.topk(BEST, -1).indices
        differences = (usual.gather(1, top) - right.gather(1, top)).abs()
        yardstick.differences += differences.flatten().tolist()
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "engine": f"vLLM {vllm.__version__}",
        "vllm": built.told(),
        "transformers_bfloat16": yardstick.told(),
    }


def main() -> None:
    """Print the result as JSON, and write it where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(check(), indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
