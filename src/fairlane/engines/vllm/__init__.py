"""Fair scheduling inside vLLM: what its options `--scheduler-cls` and `--middleware` name.

    vllm serve MODEL --scheduler-cls fairlane.engines.vllm.scheduler
        --middleware fairlane.engines.vllm.identity

Importing this package needs no vLLM; configuration is described in config.py. The names
`scheduler` and `identity` belong to these options: no module here may be called so.
"""

from typing import Any


def scheduler(*args: Any, **kwargs: Any) -> Any:
    """A fair scheduler on top of the one that vLLM would have taken, async or not."""
    from fairlane.engines.vllm.scheduling import make_scheduler

    return make_scheduler(*args, **kwargs)


def check() -> None:
    """Stop vLLM before it loads a model when FAIRLANE_CONFIG names a broken configuration.

    vLLM calls it in every process that it starts (entry point `vllm.general_plugins`).
    """
    from fairlane.engines.vllm.config import FairlaneConfig

    FairlaneConfig.from_environment().cluster.connect()  # which it does only once it is used


def __getattr__(name: str) -> Any:
    if name == "identity":
        from fairlane.engines.vllm.middleware import Identity

        return Identity
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
