"""The configuration file: what it means, and that every mistake is one line saying where."""

from pathlib import Path

import pytest

from fairlane.cluster.config import Cluster
from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.door.config import ConfigError
from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Tenant
from fairlane.engines.vllm.config import FairlaneConfig
from fairlane.engines.vllm.serve import read_tables, write_tables

HUB = "[cluster]\nhub = 'redis://x'\npool = 'p'"


def read(tmp_path: Path, text: str) -> FairlaneConfig:
    path = tmp_path / "fairlane.toml"
    path.write_text(text)
    return FairlaneConfig.read(path)


def test_without_a_file_requests_are_served_by_plain_vtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAIRLANE_CONFIG", raising=False)
    config = FairlaneConfig.from_environment()
    assert config.scheduler.name == "vtc"
    assert config.cost == LinearCost(1.0, 2.0, 0.1)
    assert config.access.rules.anonymous == "anonymous"


def test_with_whom_charges_are_shared(tmp_path: Path) -> None:
    assert read(tmp_path, "").cluster == Cluster()
    config = read(tmp_path, HUB + "\nevery_s = 1")
    assert config.cluster == Cluster("redis://x", "p", every_s=1)
    assert read(tmp_path, "[scheduler]\nname = 'vtc-predict'\n" + HUB).policy().can_share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "fairest"),
        ("[scheduler]\nname = 'fcfs'", "newest"),
        ("[scheduler]\npreemption = 'newest'", "newest"),
        ("[scheduler]\nname = 'fcfs'\npreemption = 'fairest'", "fairest"),
    ],
)
def test_preemption_is_fair_unless_the_order_is_vllms_own(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert read(tmp_path, text).scheduler.preempts == expected


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.toml"
    path.write_text('[scheduler]\nname = "drr"\nquantum = 100\n')
    monkeypatch.setenv("FAIRLANE_CONFIG", str(path))
    assert FairlaneConfig.from_environment().scheduler.options == {"quantum": 100}


def test_every_section_is_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [scheduler]
        name = "vtc-predict"
        groups = true
        max_running = 3
        [prices]
        input = 2
        cached = 0.5
        [identity]
        lora = true
        [weights]
        "acme/eng" = 2
        """,
    )
    assert config.cost == LinearCost(2.0, 2.0, 0.5)
    assert config.weights == {"acme/eng": 2.0}
    assert config.access.rules.adapters
    assert config.scheduler.options == {"max_running": 3}
    assert config.policy().peek(0.0) is None


def test_prices_can_follow_a_gpus_time(tmp_path: Path) -> None:
    config = read(tmp_path, '[prices]\ncost = "quadratic"\nprompt = 0.5\ncached = 0.25\n')
    assert config.cost == QuadraticCost(prompt=0.5, cached_price=0.25)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[scheduler]\nname = 'vtcc'", r"\[scheduler\] unknown scheduler 'vtcc'.*vtc"),
        ("[scheduler]\nname = 7", r"\[scheduler\] name must be a valid string, not 7"),
        ("[scheduler]\nquantum = 7", r"\[scheduler\] unknown key 'quantum': known: .*, groups, "),
        ("[scheduler]\ncost = 7", r"\[scheduler\] unknown key 'cost'"),
        ("[scheduler]\nname = 'vtc-oracle'", r"\[scheduler\] vtc-oracle needs true output"),
        ("[scheduler]\nname = 'drr'\nquantum = -1", r"\[scheduler\] quantum must be greater"),
        ("[scheduler]\nmax_running = 0", r"\[scheduler\] max_running must be greater"),
        ("[scheduler]\nname = 'fcfs'\ngroups = true", r"\[scheduler\] groups: fcfs knows no"),
        ("[scheduler]\npreemption = 'oldest'", r"\[scheduler\] preemption must be 'newest' or"),
        ("[scheduler]\nadapter_patience = -1", r"\[scheduler\] adapter_patience must be greater"),
        ("[scheduler]\nadapter_patience = nan", r"\[scheduler\] adapter_patience must be"),
        ("[cluster]\nhub = 'http://x'", r"\[cluster\] hub must be an address such as redis:"),
        ("[cluster]\npool = 'p'", r"\[cluster\] pool is for a hub, and there is none"),
        ("[cluster]\nhub = 'redis://x'", r"\[cluster\] pool must be a name"),
        ("[cluster]\nevery = 1", r"\[cluster\] unknown key 'every'"),
        (f"[scheduler]\nname = 'drr'\n{HUB}", r"\[cluster\] drr cannot share .* take vtc"),
        (f"[scheduler]\nname = 'fcfs'\n{HUB}", r"\[cluster\] fcfs cannot share"),
        ("[scheduler]\nname = 'lcf'\n[cluster]\nguard = 0.1", r"\[cluster\] lcf cannot share"),
        (
            "[scheduler]\nname = 'drr'\n[cluster]\nranks = false",
            r"\[cluster\] drr cannot share .* remove the table",
        ),
        (f"{HUB}\nsame_upstreams = true", r"\[cluster\] same_upstreams is for gateways"),
        (
            f"{HUB}\nshared_limits = true\n[identity]\nlora = true",
            r"\[cluster\] shared_limits: limits hold for each server by itself where adapters",
        ),
        ("[prices]\ninput = -1", r"\[prices\] input must be greater than or equal to 0"),
        ("[prices]\ninput = '1'", r"\[prices\] input must be a valid number, not '1'"),
        ("[prices]\nimput = 1", r"\[prices\] unknown key 'imput': did you mean input"),
        ("[prices]\ncost = 'cubic'", r"\[prices\] cost must be \"linear\" or \"quadratic\""),
        ("[weights]\nalice = 0", r"weights.alice must be greater than or equal to 0.000001, not 0"),
        ("[weights]\nalice = true", r"weights.alice must be a valid number, not True"),
        ("[price]\ninput = 1", r"unknown section \[price\]; known: \[scheduler\], \[prices\]"),
        ("name = 'vtc'", r"unknown section \[name\]"),
        ("[scheduler\n", r"not valid TOML"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=r"fairlane\.toml: " + complaint) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read \(no such file"):
        FairlaneConfig.read(tmp_path / "nowhere.toml")


def test_names_of_files_stay_those_beside_the_file_that_was_written(tmp_path: Path) -> None:
    """`fairlane serve` hands vLLM a changed copy that lies elsewhere."""
    for written, meant in (("a.log", str(tmp_path.resolve() / "a.log")), ("-", "-")):
        read(tmp_path, f'[log]\naccess = "{written}"\n')
        copied = write_tables(read_tables(tmp_path / "fairlane.toml"))
        assert FairlaneConfig.read(copied).access_log == meant


# -- settings that the scheduler cannot honour -------------------------------------------------


def with_tenant(tmp_path: Path, weight: float) -> None:
    tenant = Tenant("alice", weight=weight)
    change_tenants(tmp_path / "tenants.toml", lambda tenants: tenants.with_tenant(tenant))


@pytest.mark.parametrize("name", ["round-robin", "rpm", "lshare_fair"])
def test_weights_are_refused_where_the_scheduler_has_none(tmp_path: Path, name: str) -> None:
    scheduler = f'[scheduler]\nname = "{name}"\n'
    with pytest.raises(ConfigError, match=r"has no weights, but alice has one; take vtc or drr"):
        read(tmp_path, f"{scheduler}[weights]\nalice = 3\n")
    with_tenant(tmp_path, 3.0)
    with pytest.raises(ConfigError, match=r"has no weights, but alice has one"):
        read(tmp_path, f'tenants = "tenants.toml"\n{scheduler}')
    with_tenant(tmp_path, 1.0)
    assert not read(tmp_path, f'tenants = "tenants.toml"\n{scheduler}').access.warning


@pytest.mark.parametrize("name", ["fcfs", "slora"])
def test_the_engines_own_order_only_says_that_it_ignores_weights(tmp_path: Path, name: str) -> None:
    text = f'tenants = "tenants.toml"\n[scheduler]\nname = "{name}"\n'
    with_tenant(tmp_path, 1.0)
    access = read(tmp_path, text).access
    said = [access.warning]
    with_tenant(tmp_path, 3.0)  # while a server runs
    said.append(access.warning)
    ignored = "the weight of alice is ignored: the scheduler fcfs has no weights; take vtc or drr"
    assert said == ["", ignored]
    assert "weight of alice" in read(tmp_path, text).access.warning


@pytest.mark.parametrize("name", ["vtc", "drr", "lcf"])
def test_who_has_weights_takes_them_without_a_word(tmp_path: Path, name: str) -> None:
    config = read(tmp_path, f'[scheduler]\nname = "{name}"\n[weights]\nalice = 3\n')
    assert config.weights == {"alice": 3.0}
    assert not config.access.warning


@pytest.mark.parametrize("name", ["dlpm", "lpm"])
def test_who_needs_a_cache_does_not_start_without(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} needs to see the prefix cache.*take vtc"):
        read(tmp_path, f'[scheduler]\nname = "{name}"\n')


def test_a_wait_that_only_a_gateway_can_end_is_said_to_be_ignored(tmp_path: Path) -> None:
    warning = read(tmp_path, "[limits]\nmax_wait_s = 10.0\n").access.warning
    assert warning.startswith("max_wait_s of [limits] is ignored")


def test_patience_is_refused_where_there_are_no_counters_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapter_patience: fcfs keeps no counters"):
        read(tmp_path, '[scheduler]\nname = "fcfs"\nadapter_patience = 100\n')
    assert read(tmp_path, "[scheduler]\nadapter_patience = 100\n").scheduler.patience == 100.0


NUMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    "scheduler": {
        "vtc": ("max_running", "max_running_tokens", "max_idle", "max_advance", "adapter_patience"),
        "drr": ("quantum",),
        "rpm": ("rate_limit", "window_s"),
    },
    "prices": {
        "linear": ("input", "output", "cached"),
        "quadratic": ("prompt", "output_linear", "cross", "output_square", "constant", "cached"),
    },
    "limits": {
        "": ("requests_per_minute", "tokens_per_minute", "max_queued", "max_running", "max_wait_s")
    },
    "metrics": {"": ("top",)},
}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "true", "'7'", "[7]", "1e400"])
def test_no_number_of_any_section_is_anything_else(tmp_path: Path, value: str) -> None:
    for section, kinds in NUMBERS.items():
        for kind, keys in kinds.items():
            chosen = {"scheduler": f'name = "{kind}"\n', "prices": f'cost = "{kind}"\n'}
            for key in keys:
                text = f"[{section}]\n{chosen.get(section, '')}{key} = {value}\n"
                with pytest.raises(ConfigError, match=rf"toml: \[{section}\] {key} must be ") as e:
                    read(tmp_path, text)
                assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", ["'false'", "0", "1", "'yes'", "[]"])
def test_no_truth_value_is_anything_else(tmp_path: Path, value: str) -> None:
    for section, key in (
        ("scheduler", "groups"), ("scheduler", "artifact_lift"), ("identity", "lora"),
        ("metrics", "public"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"toml: \[{section}\] {key} must be a valid bool"):
            read(tmp_path, f"[{section}]\n{key} = {value}\n")


def test_prices_that_charge_nobody_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[prices\] input and output must not both be 0"):
        read(tmp_path, "[prices]\ninput = 0\noutput = 0\n")
    with pytest.raises(ConfigError, match=r"\[prices\].*must not all be 0"):
        read(
            tmp_path,
            '[prices]\ncost = "quadratic"\nprompt = 0\noutput_linear = 0\ncross = 0\n'
            "output_square = 0\nconstant = 0\n",
        )
