"""What the artifact's result files were measured with: the settings to simulate each by.

The files lie in folders by scheduler, `FOLDER/all_results_WORKLOAD.jsonl`. The folder tells the
scheduler and its options; the table below adds when the file was made, which tells the server's
speed and how it charged, and how long the first prefill took after the server was started. A file
in a known folder that the table does not list gets the settings of the latest server, and says so.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from fairlane.experiments.settings import Settings
from fairlane.policies.registry import get_policy
from fairlane.simulator.serving import Charging
from fairlane.workloads.suites import SUITES

DEFAULT_COLD_START_S = 1.0  # of files whose own is not known: the A100's lie between 0.8 and 1.3

_V1: dict[str, Any] = {"charging": Charging.STEP_START.value}
_V2: dict[str, Any] = {"charging": Charging.STEP_START_AND_FINISH.value}
_SERVERS = {
    "2023-12": _V1 | {"profile": "a10g-llama-2-7b-2023", "memory_tokens": 10000},
    "2024-04": _V1 | {"profile": "a10g-llama-2-7b", "memory_tokens": 10000},
    "2024-06": _V2 | {"profile": "a10g-llama-2-7b", "memory_tokens": 10000},
}
_A100 = _V1 | {"profile": "a100-llama-2-13b", "first_prefill_delay_s": DEFAULT_COLD_START_S}

# What the table of each period lists: folder/workload, and the delay of the first prefill (s).
_MEASURED: dict[str, dict[str, float]] = {
    "2023-12": {
        "FCFS/overload": 0.80,
        "FCFS/poisson_short_long": 0.0,
        "FCFS/poisson_on_off_overload": 0.0,
        "FCFS/poisson_short_long_2": 0.59,
        "FCFS/proportional": 0.0,
        "FCFS/increase": 0.0,
        "FCFS/on_off_less": 0.0,
        "FCFS/on_off_overload": 0.0,
        "VTC/increase": 0.0,
        "VTC/on_off_less": 0.0,
        "VTC/on_off_overload": 0.0,
        "VTC/poisson_on_off_overload": 0.0,
        "VTC/poisson_short_long": 0.0,
        "VTC/poisson_short_long_2": 0.0,
        "./proportional": 0.0,
        "./dist_shift": 0.0,
    },
    "2024-04": {
        "./overload": 3.19,
        "VTC/proportional": 0.57,
        "VTC/dist_shift": 0.0,
        "LCF/dist_shift": 1.20,
        "FCFS/overload-multi": 1.10,
        "FCFS/real": 1.13,
        "LShare/rpm5/real": 1.14,
        "LShare/rpm10/real": 0.49,
        "LShare/rpm15/real": 0.52,
        "LShare/rpm20/real": 1.26,
        "LShare/rpm30/real": 1.11,
    },
    "2024-06": {
        "VTC/overload": 1.12,
        "VTC/overload-multi": 0.0,
        "VTC/overload-weighted": 0.0,
        "WVTC/overload-weighted": 1.15,
        "VTC_oracle/overload": 1.08,
        "VTC_oracle/overload-multi": 1.25,
        "VTC_pred_50/overload": 1.14,
        "VTC_pred_50/overload-multi": 1.09,
        "VTC_pred_50_profile/overload-multi": 1.18,
        "VTC_profile/overload": 1.15,
        "VTC_profile/overload-multi": 1.16,
        "VTC_oracle_profile/overload": 1.07,
        "VTC_oracle_profile/overload-multi": 1.13,
        "VTC/real": 1.15,
        "VTC_oracle/real": 1.11,
        "VTC_predict/real": 1.23,
        "VTC_profile/real": 1.16,
        "VTC_oracle_profile/real": 1.11,
        "VTC_predict_profile/real": 1.11,
        "LCF/real": 1.11,
    },
}
_ABLATION = tuple(
    f"sec6.4/{folder}/all_results_overload-s4.jsonl"
    for folder in (
        "35000/VTC-256",
        "35000/VTC-512",
        "35000/VTC-768",
        "65000/FCFS-256",
        "65000/VTC-256",
        "65000/VTC-512",
        "65000/VTC-768",
    )
)
_ABLATION_SUITES = {  # by memory and length
    (35000, 256): "overload-s4-35000-256",
    (35000, 512): "overload-s4-35000-512",
    (35000, 768): "overload-s4-35000-768",
    (65000, 256): "overload-s4",
    (65000, 512): "overload-s4-long",
    (65000, 768): "overload-s4-768",
}

# Files from which the latency profiles were fitted; errors on all others are predictions.
FITTED = frozenset(
    {
        "FCFS/all_results_overload.jsonl",
        "FCFS/all_results_real.jsonl",
        "FCFS/all_results_poisson_short_long.jsonl",
        "FCFS/all_results_poisson_on_off_overload.jsonl",
        "VTC/all_results_increase.jsonl",
        "VTC/all_results_proportional.jsonl",
        "LShare/rpm10/all_results_real.jsonl",
        "sec6.4/35000/VTC-256/all_results_overload-s4.jsonl",
        "sec6.4/35000/VTC-512/all_results_overload-s4.jsonl",
        "sec6.4/65000/FCFS-256/all_results_overload-s4.jsonl",
        "sec6.4/65000/VTC-512/all_results_overload-s4.jsonl",
    }
)

# Workloads that were not run as their suite is defined now.
_OTHER_WORKLOADS: dict[str, dict[str, Any]] = {
    "FCFS/overload": {"duration": 600.0},
    "FCFS/poisson_short_long_2": {"duration": 300.0},
    "WVTC/overload-weighted": {"rates": (0.4, 0.8, 1.2, 1.6)},
}

_FOLDERS: dict[str, dict[str, Any]] = {
    ".": {"scheduler": "vtc"},
    "FCFS": {"scheduler": "fcfs"},
    "LCF": {"scheduler": "lcf"},
    "VTC": {"scheduler": "vtc"},
    "WVTC": {"scheduler": "vtc", "weights": (1.0, 2.0, 3.0, 4.0)},
    "VTC_oracle": {"scheduler": "vtc-oracle"},
    "VTC_pred_50": {"scheduler": "vtc-oracle", "predict_range": 0.5},
    "VTC_predict": {"scheduler": "vtc-predict"},
}


@dataclass(frozen=True, slots=True)
class Experiment:
    """One result file of the artifact and the settings to simulate it by.

    file: path below the artifact's results, with `/`. settings: with the suite that the file was
    measured on; `real` still needs its trace. fitted: the latency profile was fitted to this
    file, among others. note: what had to be assumed.
    """

    file: str
    settings: Settings
    fitted: bool = False
    note: str = ""

    def replay(self, measured: Path) -> Settings:
        """The settings to simulate the very requests of the result file `measured`."""
        return replace(self.settings, suite="real", trace=str(measured), duration=None, rates=())


def find_experiment(file: str) -> Experiment | None:
    """The experiment that a path below the artifact's results names; None where none is."""
    path = PurePosixPath(file)
    name = re.fullmatch(r"all_results_(.+)\.jsonl", path.name)
    if name is None:
        return None
    ablation = re.fullmatch(r"sec6\.4/(\d+)/(VTC|FCFS)-(\d+)", str(path.parent))
    if ablation:
        settings, note = _ablation(int(ablation[1]), ablation[2], int(ablation[3])), ""
    else:
        options = _options(str(path.parent))
        if options is None:
            return None
        settings, note = _main(f"{path.parent}/{name[1]}", name[1], options)
    lifted = "artifact_lift" in get_policy(settings.scheduler).options
    return Experiment(file, replace(settings, artifact_lift=lifted), file in FITTED, note)


def catalogue() -> list[Experiment]:
    """Every result file whose settings are known."""
    files = list(_ABLATION)
    for listed in _MEASURED.values():
        for key in listed:
            folder, _, workload = key.removeprefix("./").rpartition("/")
            files.append(str(PurePosixPath(folder, f"all_results_{workload}.jsonl")))
    return [experiment for file in files if (experiment := find_experiment(file))]


def _ablation(pool: int, folder: str, length: int) -> Settings:
    """Figure 14: two clients on an A100, by memory, scheduler and length of requests."""
    suite = _ABLATION_SUITES.get((pool, length), "real")
    return Settings(suite=suite, memory_tokens=pool, **_A100, **_FOLDERS[folder])


def _options(folder: str) -> dict[str, Any] | None:
    """The scheduler and its options by folder; None for a folder that is not the artifact's."""
    limit = re.fullmatch(r"LShare/rpm(\d+)", folder)
    if limit:
        return {"scheduler": "rpm", "rate_limit": int(limit[1])}
    plain = folder.removesuffix("_profile")
    options = _FOLDERS.get(plain)
    if options is None or plain == folder:
        return options
    return options | {"cost": "quadratic"}


def _main(key: str, workload: str, options: dict[str, Any]) -> tuple[Settings, str]:
    """The settings of folder/workload, and what had to be assumed for them."""
    name = workload.replace("_", "-")
    suite = {"suite": name if name in SUITES else "real", **_OTHER_WORKLOADS.get(key, {})}
    for period, listed in _MEASURED.items():
        # what lies in no folder are VTC's, some of them copies
        delay = listed.get(key, listed.get(key.replace("./", "VTC/")))
        if delay is not None:
            server = _SERVERS[period] | {"first_prefill_delay_s": delay}
            return Settings(**suite, **server, **options), ""
    server = _SERVERS["2024-06"] | {"first_prefill_delay_s": DEFAULT_COLD_START_S}
    return Settings(**suite, **server, **options), "settings assumed: the artifact's latest server"
