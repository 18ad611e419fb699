"""The suites of the paper's evaluation and of its revision, with the artifact's settings.

The artifact keeps one entry per figure; durations are its latest ones. Some of its measurements
were made with others (600 s instead of 360 s for `overload`): give the duration then.
"""

from typing import Any

from fairlane.workloads.config import WorkloadConfig
from fairlane.workloads.suites import A100, Suite, register


def _config(*rates: float, **others: Any) -> WorkloadConfig:
    """A workload of one client per rate; 256 tokens in and out for 600 s unless said."""
    return WorkloadConfig(num_adapters=len(rates), req_rate=rates, **others)


def _register_a10g() -> None:
    """Llama-2-7b on one A10G: figures 3 to 10 and the revision's tables."""
    mixed = {"input_range": (16, 512), "output_range": (16, 512)}
    short_in = {"input_range": (32, 33), "output_range": (512, 513)}
    for name, title, config, *figures in (
        ("overload", "two clients above their share, one sends twice as much",
         _config(1.5, 3, duration=360), "fig3"),
        ("overload-multi", "eight clients above their share, at two rates",
         _config(0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, duration=360)),
        ("overload-weighted", "four clients above their share, for weights 1 to 4",
         _config(0.8, 0.8, 1.2, 1.6, duration=360)),
        ("proportional", "three clients, two of them below their share",
         _config(0.25, 0.5, 1.5), "fig4"),
        ("on-off-less", "a client that pauses, below its share, beside an overloading one",
         _config(0.5, 2, on_off=60), "fig5"),
        ("on-off-overload", "a client that pauses, above its share, beside an overloading one",
         _config(2, 3, on_off=60), "fig6"),
        ("poisson-short-long", "random arrivals: many short requests beside few long ones",
         _config(8, 1.5, mode="poisson-short-long"), "fig7"),
        ("poisson-short-long-2", "random arrivals: long prompts beside long outputs",
         _config(8, 1.5, mode="poisson-short-long-2", **short_in), "fig8"),
        ("poisson-on-off-overload", "random arrivals and lengths, one client pauses",
         _config(0.5, 2, on_off=60, mode="poisson", **mixed)),
        ("increase", "a client within its share beside one whose rate grows",
         _config(0.5, 2, mode="increase"), "fig9"),
        ("dist-shift", "three phases: pausing, both overloading, one overloading",
         _config(-1, -1, duration=900, mode="dist_shift"), "fig10"),
        ("real", "27 clients of an LLM arena; needs the trace file",
         WorkloadConfig(num_adapters=-1, req_rate=3.5, input_range=(1, 1024),
                        output_range=(1, 1024), mode="real"), "fig11", "fig12", "fig13"),
    ):  # fmt: skip
        register(Suite(name, title, config, figures=tuple(figures)))


def _register_a100() -> None:
    """Llama-2-13b on one A100: figure 14, two clients of which one sends twice as much."""
    for name, rate, length, pool in (
        ("overload-s4", 4, 256, 65000),
        ("overload-s4-long", 2, 512, 65000),
        ("overload-s4-768", 1.5, 768, 65000),
        ("overload-s4-35000-256", 3, 256, 35000),
        ("overload-s4-35000-512", 1.5, 512, 35000),
        ("overload-s4-35000-768", 1, 768, 35000),
    ):
        equal = (length, length + 1)
        config = _config(rate, 2 * rate, input_range=equal, output_range=equal)
        title = f"two overloading clients, {length} tokens in and out, memory of {pool} tokens"
        register(Suite(name, title, config, A100, ("fig14",)))


_register_a10g()
_register_a100()
