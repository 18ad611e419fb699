"""`fairlane serve`: vLLM's server with fair scheduling, checked before a model is loaded.

`plan` turns options into a command and an environment, or says what is wrong with them. It covers
what the launcher of the paper's artifact did: clients as LoRA adapters of dummy weights, the size
of the memory pool, a rate limit, weights, and the cost function.
"""

import socket
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tomlkit

from fairlane.cluster.config import RAY
from fairlane.core.errors import FairlaneError
from fairlane.door.access_log import STANDARD_OUTPUT
from fairlane.engines.vllm.adapters import ADAPTER, adapter_options
from fairlane.engines.vllm.config import VARIABLE, FairlaneConfig
from fairlane.engines.vllm.frontend import refuse_unguarded_front_ends
from fairlane.files import atomic_write
from fairlane.policies.registry import get_policy

SCHEDULER = "fairlane.engines.vllm.scheduler"
MIDDLEWARE = "fairlane.engines.vllm.identity"
_ANY_SCHEDULERS = frozenset({"groups", "preemption", "adapter_patience"})
_BLOCK = 32  # tokens, where none is given: the least that all backends take
_MOST_AT_ONCE = 8  # adapters in a batch, where none is given


@dataclass(frozen=True)
class Plan:
    """What to run: a command, and what to add to its environment; and what has no effect in it."""

    command: list[str]
    environment: dict[str, str]
    warning: str = ""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of Fairlane's own; None and False leave things as the configuration has them.

    dummy: random weights. num_adapters: LoRA adapters of random weights, one for each client.
    memory_tokens: size of the KV cache. rate_limit: requests per minute and client. weights: of
    adapter-0, adapter-1 and so on. cost: linear, quadratic, or a file of `fairlane profile-cost`.
    """

    config: Path | None = None
    scheduler: str | None = None
    dummy: bool = False
    num_adapters: int = 0
    memory_tokens: int | None = None
    rate_limit: int | None = None
    weights: tuple[float, ...] = ()
    cost: str | None = None

    @property
    def changes_configuration(self) -> bool:
        """Whether the configuration that the server reads differs from the file."""
        return bool(
            self.scheduler or self.num_adapters or self.rate_limit or self.weights or self.cost
        )


@dataclass(frozen=True)
class Prepared:
    """What is to be served: options of vLLM, the configuration's file, and what has no effect."""

    vllm_options: list[str]
    file: Path | None
    warning: str


def plan(
    model: str,
    options: ServeOptions,
    vllm_options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Plan:
    """The command that serves `model`. Raises FairlaneError for whatever would fail later."""
    prepared = prepare(model, options, vllm_options, environment)
    file = prepared.file
    if file is not None and FairlaneConfig.read(file).cluster.hub == RAY:
        raise FairlaneError('[cluster] hub: "ray" is for what runs in Ray: add --ray')
    given = _Given(vllm_options)
    if given.value("--uds") is None:
        check_port(given.value("--host") or "", given.value("--port") or "8000")
    command = [*_launcher(model), "--scheduler-cls", SCHEDULER, *prepared.vllm_options]
    command += ["--middleware", MIDDLEWARE]  # the last is outermost
    return Plan(command, {} if file is None else {VARIABLE: str(file)}, prepared.warning)


def prepare(
    model: str,
    options: ServeOptions,
    vllm_options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Prepared:
    """Check everything but the port, and write the configuration. Raises FairlaneError."""
    environment = environment or {}
    given = _Given(vllm_options)
    refuse_unguarded_front_ends(vllm_options, environment)
    _check_options(given)
    _check_model(model)
    warning = ""
    named = environment.get(VARIABLE)
    file = options.config or (Path(named) if named else None)
    if file is not None or options.changes_configuration:
        tables = _change(read_tables(file), options)
        _check_weights(options, tables)
        file = write_tables(tables)
        config = FairlaneConfig.read(file)
        warning = config.access.warning
        config.cluster.connect()  # only once it is used; what that lacks is said now
        if config.usage.on:
            config.usage.store().close()  # likewise
        if config.access.store is not None:
            _check_keys(given, environment)
    more = _dummies(model, options, given) + _memory(options, given)
    return Prepared([*vllm_options, *more], file, warning)


def check_installed() -> None:
    """Raise FairlaneError where there is no vLLM."""
    if find_spec("vllm") is None:
        raise FairlaneError("vLLM is not installed here: pip install vllm")


class _Given:
    """vLLM's options as the user gave them."""

    def __init__(self, options: Sequence[str]) -> None:
        self._options = list(options)

    def value(self, name: str) -> str | None:
        """The value of an option, "" for one without, None where it is not given."""
        for i, option in enumerate(self._options):
            flag, equals, value = option.partition("=")
            if flag.replace("_", "-") == name:
                if equals:
                    return value
                following = self._options[i + 1 : i + 2]
                return following[0] if following and not following[0].startswith("--") else ""
        return None


def _check_options(given: _Given) -> None:
    if given.value("--scheduler-cls") is not None:
        raise FairlaneError("--scheduler-cls: Fairlane sets it; choose by --scheduler NAME")
    if given.value("--scheduling-policy") not in (None, "fcfs"):
        raise FairlaneError(
            "--scheduling-policy: Fairlane orders the queue in its place; leave it out, and give "
            "clients weights"
        )
    if MIDDLEWARE in (given.value("--middleware") or ""):
        raise FairlaneError(f"--middleware {MIDDLEWARE}: Fairlane adds it by itself; leave it out")


def _check_keys(given: _Given, environment: Mapping[str, str]) -> None:
    if given.value("--api-key") is not None or environment.get("VLLM_API_KEY"):
        raise FairlaneError(
            "--api-key and VLLM_API_KEY ask for a key beside the tenants' own; leave them out"
        )


def _check_model(model: str) -> None:
    if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
        raise FairlaneError(f"{model}: no such folder; give a model's folder or its name")


def check_port(host: str, port: str) -> None:
    """Raise FairlaneError where nobody could listen on that port now."""
    if not port.isdigit():
        raise FairlaneError(f"--port must be a number, not {port!r}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, int(port)))
        except (OSError, OverflowError) as error:
            raise FairlaneError(f"cannot listen on {host or '*'}:{port}: {error}") from error


# -- the configuration ------------------------------------------------------------------------

Tables = dict[str, Any]


def read_tables(file: Path | None) -> Tables:
    """A configuration that was checked; names of files in it are whole paths."""
    if file is None:
        return {}
    FairlaneConfig.read(file)  # complains better than what follows
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    if "tenants" in tables:
        tables["tenants"] = str((file.parent / tables["tenants"]).resolve())
    if "ca" in tables.get("cluster", {}):
        tables["cluster"]["ca"] = str((file.parent / tables["cluster"]["ca"]).resolve())
    database = tables.get("usage", {}).get("database", "")
    if database and "://" not in database:
        tables["usage"]["database"] = str((file.parent / database).resolve())
    access_log = tables.get("log", {}).get("access", STANDARD_OUTPUT)
    if access_log != STANDARD_OUTPUT:
        tables["log"]["access"] = str((file.parent / access_log).resolve())
    return tables


def _change(tables: Tables, options: ServeOptions) -> Tables:
    """The configuration with the options in it."""
    changed = {name: dict(t) if isinstance(t, dict) else t for name, t in tables.items()}
    scheduler = changed.setdefault("scheduler", {})
    if options.scheduler is not None:
        get_policy(options.scheduler)
        if scheduler.get("name", "vtc") != options.scheduler:  # the other's options mean nothing
            scheduler = {k: v for k, v in scheduler.items() if k in _ANY_SCHEDULERS}
        scheduler = changed["scheduler"] = {**scheduler, "name": options.scheduler}
    if options.rate_limit is not None:
        if scheduler.get("name") in ("rpm", "lshare_fair"):
            scheduler["rate_limit"] = options.rate_limit
        else:
            changed.setdefault("limits", {})["requests_per_minute"] = options.rate_limit
    if options.num_adapters:
        changed.setdefault("identity", {})["lora"] = True
    for i, weight in enumerate(options.weights):
        changed.setdefault("weights", {})[ADAPTER.format(i)] = weight
    if options.cost is not None:
        changed["prices"] = _prices(options.cost)
    return changed


def _check_weights(options: ServeOptions, tables: Tables) -> None:
    """Raise FairlaneError for weights of adapters that are not there, or are nobody's clients.

    Adapters beyond those that are given weigh 1.
    """
    given, count = len(options.weights), options.num_adapters
    if count and given > count:
        raise FairlaneError(f"--weights: {given} weights for {count} adapters")
    if given and not tables.get("identity", {}).get("lora"):
        raise FairlaneError(
            "--weights are of adapters, which are no clients here: give --num-adapters, or "
            "[identity] lora = true"
        )


def _prices(cost: str) -> Tables:
    if cost in ("linear", "quadratic"):
        return {"cost": cost}
    file = Path(cost)
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise FairlaneError(f"{cost}: {cause}; --cost is linear, quadratic or a file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FairlaneError(f"{cost}: not TOML: {error}") from error
    numbers = found.get("cost", found)
    if not isinstance(numbers, dict):
        raise FairlaneError(f"{cost}: needs a table [cost], as `fairlane profile-cost` writes it")
    return {"cost": "quadratic", **numbers}  # whatever is wrong in it is found with the rest


def write_tables(tables: Tables) -> Path:
    """The configuration as a file that lives as long as the machine's temporary files."""
    file = Path(tempfile.mkdtemp(prefix="fairlane-serve-")) / "fairlane.toml"
    with atomic_write(file) as writing:
        tomlkit.dump(tables, writing)
    return file


# -- vLLM's options ---------------------------------------------------------------------------


def _launcher(model: str) -> list[str]:
    """`vllm serve`; builds that are not installed as `vllm` lack its command."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]


def _dummies(model: str, options: ServeOptions, given: _Given) -> list[str]:
    """Options for random weights and for the adapters that stand for clients."""
    more = ["--load-format", "dummy"] if options.dummy else []
    if options.num_adapters:
        more += adapter_options(Path(model).expanduser(), options.num_adapters)
        if given.value("--max-loras") is None:
            more += ["--max-loras", str(min(options.num_adapters, _MOST_AT_ONCE))]
    return more


def _memory(options: ServeOptions, given: _Given) -> list[str]:
    if options.memory_tokens is None:
        return []
    size = given.value("--block-size")
    block = int(size) if size and size.isdigit() else _BLOCK
    more = [] if size else ["--block-size", str(block)]
    return [*more, "--num-gpu-blocks-override", str(max(1, -(-options.memory_tokens // block)))]
