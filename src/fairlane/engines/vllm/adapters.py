"""LoRA adapters of random weights, for trying a server whose clients are told apart by adapters.

Random, and not zero, so that their work is real. All adapters of a server may share one folder.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fairlane.core.errors import FairlaneError

ADAPTER = "adapter-{}"
RANK = 8


def adapter_options(model: Path, count: int) -> list[str]:
    """Options of vLLM for adapters adapter-0, adapter-1 and so on, of one folder that is written.

    How many of them may be in a batch, --max-loras, is left to the caller. Raises FairlaneError as
    write_adapter does.
    """
    folder = write_adapter(model, RANK)
    modules = [f"{ADAPTER.format(i)}={folder}" for i in range(count)]
    options = ["--enable-lora", "--max-cpu-loras", str(count), "--max-lora-rank", str(RANK)]
    return [*options, "--lora-modules", *modules]


def write_adapter(model: Path, rank: int) -> Path:
    """Write an adapter for the attention of a Llama-like model; the folder that holds it.

    Raises FairlaneError unless `model` is a folder with the config.json of such a model.
    """
    config = _config(model)
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise FairlaneError(
            "adapters need safetensors, which comes with vLLM and is not installed: "
            "pip install safetensors"
        ) from error

    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    widths = {"q_proj": heads, "v_proj": config.get("num_key_value_heads") or heads}
    generator = np.random.default_rng(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, outputs in widths.items():
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            for part, shape in (("A", (rank, hidden)), ("B", (outputs * head, rank))):
                weights = generator.normal(0, 0.02, shape).astype(np.float32)
                tensors[f"{path}.lora_{part}.weight"] = weights
    folder = Path(tempfile.mkdtemp(prefix="fairlane-adapter-"))
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none"}
    settings |= {"target_modules": list(widths), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _config(model: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FairlaneError(
            f"{model}: --num-adapters needs a model's folder with its config.json"
        ) from error
    for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"):
        if not isinstance(config.get(name), int):
            raise FairlaneError(f"{model}/config.json: no {name}; --num-adapters needs a Llama")
    return config
