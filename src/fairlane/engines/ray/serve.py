"""`fairlane serve --ray`: Ray Serve LLM with fair scheduling, checked before anything is started.

Options for vLLM are those of `vllm serve`; they become arguments of the engine of each replica.
Replicas share what they charge by an actor, unless the configuration names another hub.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fairlane.core.errors import FairlaneError
from fairlane.engines.vllm.config import FairlaneConfig
from fairlane.engines.vllm.serve import (
    Plan,
    ServeOptions,
    check_port,
    prepare,
    read_tables,
    write_tables,
)

_CANNOT = {
    "api_key": "clients' keys are those of [tenants]",
    "middleware": "Ray installs none",
    "uds": "Ray listens on --host and --port",
    "ssl_keyfile": "Ray speaks HTTP; put a proxy before it",
    "ssl_certfile": "Ray speaks HTTP; put a proxy before it",
    "root_path": "Ray serves it at /",
    "data_parallel_size": "give --replicas",
}


def plan(
    model: str,
    options: ServeOptions,
    replicas: int,
    vllm_options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """The command that serves `model`. Raises FairlaneError for whatever would fail later."""
    if options.num_adapters or options.weights:
        raise FairlaneError("--num-adapters: with --ray clients are told apart by keys alone")
    prepared = prepare(model, options, vllm_options, environment)
    engine = engine_options(prepared.vllm_options)
    for name, why in _CANNOT.items():
        if name in engine:
            raise FairlaneError(f"--{name.replace('_', '-')}: not with --ray; {why}")
    host, port = str(engine.pop("host", "")), engine.pop("port", 8000)
    check_port(host, str(port))
    file, warning = _share(prepared.file, model, replicas)
    folder = Path(model).expanduser()
    told = {
        "model": str(folder.resolve()) if folder.is_dir() else model,
        "name": str(engine.pop("served_model_name", model)),
        "replicas": replicas,
        "host": host or "0.0.0.0",
        "port": port,
        "engine": engine,
        "fairlane": None if file is None else str(file.resolve()),
    }
    command = [sys.executable, "-m", "fairlane.engines.ray.launch", json.dumps(told)]
    return Plan(command, {}, "; ".join(filter(None, (prepared.warning, warning))))


def check_installed() -> None:
    """Raise FairlaneError where there is no Ray Serve, or no vLLM."""
    for name, package in (("ray.serve", "ray[llm]"), ("vllm", "vllm")):
        if find_spec(name.partition(".")[0]) is None:
            raise FairlaneError(f"{name} is not installed here: pip install '{package}'")


def engine_options(options: Sequence[str]) -> dict[str, Any]:
    """Options of a command line as keyword arguments: `--no-x` is x=False, `--x` alone x=True.

    Values are JSON where they can be, else text; an option with several has a list of them. Raises
    FairlaneError for what is no option.
    """
    found: dict[str, list[str]] = {}
    name = ""
    for word in options:
        if word.startswith("--"):
            flag, equals, value = word.removeprefix("--").partition("=")
            name = flag.replace("-", "_")
            if not re.fullmatch(r"[a-z]\w*", name):
                raise FairlaneError(f"{word}: with --ray write an option of parts as one, in JSON")
            if name in found:
                raise FairlaneError(f"--{flag} is given twice")
            found[name] = [value] if equals else []
        elif not name or (word.startswith("-") and not re.fullmatch(r"-[\d.]+", word)):
            raise FairlaneError(f"{word}: with --ray write options in full: --name value")
        else:
            found[name].append(word)
    return dict(_keyword(name, values) for name, values in found.items())


def _keyword(name: str, values: list[str]) -> tuple[str, Any]:
    if not values:
        return (name.removeprefix("no_"), False) if name.startswith("no_") else (name, True)
    parsed = [_parse(value) for value in values]
    return name, parsed if len(parsed) > 1 else parsed[0]


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _share(file: Path | None, model: str, replicas: int) -> tuple[Path | None, str]:
    """The configuration with a hub, where replicas need one and it has none; and a warning."""
    config = FairlaneConfig() if file is None else FairlaneConfig.read(file)
    if not config.cluster.ranks:
        raise FairlaneError(
            "[cluster] ranks: not with --ray, where each replica has one; remove it"
        )
    if replicas < 2 or config.cluster.hub is not None:
        return file, ""
    if not config.policy().can_share:
        name = config.scheduler.name
        return file, f"the {replicas} replicas share nothing: {name} cannot; take vtc"
    tables = read_tables(file)
    tables["cluster"] = {**tables.get("cluster", {}), "hub": "ray", "pool": model}
    return write_tables(tables), ""
