"""Runs what `fairlane serve --ray` has planned, until it is interrupted.

It joins the Ray cluster that RAY_ADDRESS names, or starts one on this machine.
"""

import json
import os
import sys
from typing import Any

import ray
from ray import serve

from fairlane.engines.ray.llm import build_app
from fairlane.engines.ray.private_llm import streams_directly

_TAKEN_ALONG = ("HF_", "OMP_", "RAY_SERVE_", "VLLM_")  # of the environment, to every replica
_SMALL = 0.1  # of a CPU: what an actor is counted as that mostly waits


def arguments(told: dict[str, Any], *, has_gpus: bool) -> dict[str, Any]:
    """What `build_app` takes. told: see serve.plan."""
    env = {name: text for name, text in os.environ.items() if name.startswith(_TAKEN_ALONG)}
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": told["name"], "model_source": told["model"]},
        "deployment_config": {
            "num_replicas": told["replicas"],
            "ray_actor_options": {"num_cpus": _SMALL},
        },
        "engine_kwargs": told["engine"],
        "runtime_env": {"env_vars": env},
    }
    if not has_gpus:
        llm["accelerator_config"] = {"kind": "cpu"}
        llm["placement_group_config"] = {"bundles": [{"CPU": _SMALL}]}
    built: dict[str, Any] = {"llm_configs": [llm]}
    if not streams_directly():
        built["ingress_deployment_config"] = {
            "num_replicas": 1, "autoscaling_config": None,
            "ray_actor_options": {"num_cpus": _SMALL},
        }  # fmt: skip
    return built if told["fairlane"] is None else {**built, "fairlane": told["fairlane"]}


def main() -> None:
    """Serve."""
    told = json.loads(sys.argv[1])
    ray.init()
    has_gpus = bool(ray.cluster_resources().get("GPU"))
    serve.start(http_options={"host": told["host"], "port": told["port"]})
    serve.run(build_app(arguments(told, has_gpus=has_gpus)), route_prefix="/", blocking=True)


if __name__ == "__main__":
    main()
