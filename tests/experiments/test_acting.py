"""Every setting acts, or is refused; what is quietly meant is said before a run."""

from pathlib import Path
from typing import Any

import pytest

from fairlane.core.errors import FairlaneError
from fairlane.experiments.acting import check_settings
from fairlane.experiments.reproduce import reproduce
from fairlane.experiments.settings import Settings

HEADER = "client,arrival_s,prompt_len,output_len\n"
VLLM = {"profile": "h200-llama-2-7b"}


def settings(**options: Any) -> Settings:
    return Settings(**{"suite": "overload", "scheduler": "vtc", "duration": 5.0, **options})


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.csv"
    path.write_text(f"{HEADER}bob,7,16,8\nann,8,32,4\nbob,9,16,8\n")
    return str(path)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"too_long": "drop"}, "too-long is for a trace"),
        ({"too_long": "refuse"}, "too-long is for a trace"),
        ({"suite": "arena", "rates": (1.0,) * 27}, "suite arena takes no rates"),
        ({"suite": "dist-shift", "rates": (1.0, 2.0)}, "suite dist-shift takes no rates"),
        ({"rates": (1.0, 2.0, 3.0)}, "3 rates for 2 clients"),
        ({"prefix_cache_tokens": 4096}, "no two requests of overload say that they share a pref"),
        ({"prefix_cache_tokens": 0}, "no two requests of overload say that they share a prefix"),
        ({"suite": "shared-prefix", "prefix_cache_tokens": 15}, "holds nothing: a block has 16"),
        ({"preemption": "fairest"}, "does not preempt"),
        ({**VLLM, "preemption": "oldest"}, "unknown preemption 'oldest'"),
        ({**VLLM, "charging": "step-start"}, "reports tokens as they are delivered"),
        ({"scheduler": "fcfs", "charging": "step-start"}, "scheduler fcfs charges no tokens"),
        ({"scheduler": "rpm", "charging": "step-start"}, "scheduler rpm charges no tokens"),
        ({"scheduler": "fcfs", "artifact_lift": True}, "scheduler fcfs lifts nobody"),
        ({"scheduler": "lcf", "artifact_lift": True}, "scheduler lcf lifts nobody"),
        ({"scheduler": "drr", "artifact_lift": True}, "scheduler drr lifts nobody"),
        ({"scheduler": "fcfs", "weights": (1.0, 2.0)}, "fcfs takes no options, not weights"),
        ({"scheduler": "round-robin", "weights": (1.0, 2.0)}, "not weights"),
        ({"scheduler": "lpm", "weights": (1.0, 2.0)}, "not weights"),
        ({"scheduler": "fcfs", "cost": "quadratic"}, "not cost"),
        ({"scheduler": "lpm", "quantum": 5.0}, "not quantum"),
        ({"quantum": 5.0}, "not quantum"),
        ({"rate_limit": 5}, "not rate_limit"),
        ({"predict_range": 0.5}, "not predict_range"),
    ],
)
def test_a_setting_that_cannot_act_is_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        check_settings(settings(**options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise": False},
        {"scheduler": "lcf", "charging": "step-start"},
        {"scheduler": "vtc-oracle", "predict_range": 0.5, "noise": False, "seed": 3},
        {"artifact_lift": True, "charging": "step-start-and-finish"},
        {"suite": "shared-prefix", "prefix_cache_tokens": 0},
        {"suite": "shared-prefix", "prefix_cache_tokens": 2048, "scheduler": "dlpm"},
        {**VLLM, "preemption": "fairest"},
        {"scheduler": "rpm"},
    ],
)
def test_what_acts_is_taken_without_a_word(options: dict[str, Any]) -> None:
    assert check_settings(settings(**options)) == []


def test_several_runs_without_noise_are_one(trace: str) -> None:
    with pytest.raises(FairlaneError, match="every seed gives the same run"):
        check_settings(settings(noise=False), runs=3)
    said = check_settings(settings(noise=False, seed=3))
    assert said == ["without noise every seed gives the same run"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rates": (1.0, 2.0)}, "suite real takes no rates"),
        (
            {"scheduler": "dlpm", "prefix_cache_tokens": 4096},
            "no two requests of .* share a prefix",
        ),
        ({"weights": (1.0,)}, "1 weights for 2 clients"),
        ({"weights": (("eve", 1.0),)}, "weights for eve, who sends nothing"),
        ({"duration": float("nan")}, "duration must be a finite number, not nan"),
    ],
)
def test_a_setting_that_cannot_act_on_a_trace_is_refused(
    trace: str, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        check_settings(Settings(**{"suite": "real", "scheduler": "vtc", "trace": trace, **options}))
    with pytest.raises(FairlaneError, match="overload takes no trace"):
        check_settings(settings(trace=trace))


def test_what_is_quietly_meant_is_said(trace: str) -> None:
    said = check_settings(
        Settings(suite="real", scheduler="dlpm", trace=trace, weights=(1.0, 2.0), duration=60)
    )
    assert said == [
        "weights: bob=1, ann=2",
        "dlpm: no prefix cache is simulated, so prefixes do not count: see --prefix-cache-tokens",
        f"{trace}: counted from its first arrival, at 7.0 s",
        f"{trace}: ends after 2 s, before the duration does",
    ]


def test_an_alias_preempts_as_the_scheduler_that_it_names() -> None:
    aliased, plain = (settings(scheduler=name, **VLLM).server() for name in ("slora", "fcfs"))
    assert aliased == plain


def test_a_reproduction_refuses_what_none_of_its_figures_uses(tmp_path: Path, trace: str) -> None:
    for options, complaint in (
        ({"only": ["fig3"], "trace": Path(trace)}, "none of these figures is of a trace"),
        ({"only": ["fig3"], "too_long": "drop"}, "too-long is for a trace"),
        ({"only": ["fig3"], "measured": tmp_path}, "holds nothing that these figures show"),
    ):
        with pytest.raises(FairlaneError, match=complaint):
            reproduce(output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
