"""The configuration file: what it means, and that every mistake is one line saying where."""

from pathlib import Path

import pytest

from fairlane.core.cost import LinearCost, QuadraticCost
from fairlane.engines.vllm.config import ConfigError, FairlaneConfig


def read(tmp_path: Path, text: str) -> FairlaneConfig:
    path = tmp_path / "fairlane.toml"
    path.write_text(text)
    return FairlaneConfig.read(path)


def test_without_a_file_requests_are_served_by_plain_vtc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAIRLANE_CONFIG", raising=False)
    config = FairlaneConfig.from_environment()
    assert config.scheduler.name == "vtc"
    assert config.cost == LinearCost(1.0, 2.0, 0.1)
    assert config.identity.anonymous == "anonymous"


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
    assert config.identity.lora
    assert config.scheduler.options == {"max_running": 3}
    assert config.policy().peek(0.0) is None


def test_prices_can_follow_a_gpus_time(tmp_path: Path) -> None:
    config = read(tmp_path, '[prices]\ncost = "quadratic"\nprompt = 0.5\ncached = 0.25\n')
    assert config.cost == QuadraticCost(prompt=0.5, cached_price=0.25)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[scheduler]\nname = 'vtcc'", r"\[scheduler\] unknown scheduler 'vtcc'.*vtc"),
        ("[scheduler]\nname = 7", r"\[scheduler\] name must be a text, not 7"),
        ("[scheduler]\nquantum = 7", r"\[scheduler\] unknown key 'quantum'; known: name, groups"),
        ("[scheduler]\ncost = 7", r"\[scheduler\] unknown key 'cost'"),
        ("[scheduler]\nname = 'vtc-oracle'", r"\[scheduler\] vtc-oracle needs true output"),
        ("[scheduler]\nname = 'drr'\nquantum = -1", r"\[scheduler\] quantum must be positive"),
        ("[scheduler]\nmax_running = 0", r"\[scheduler\] max_running must be at least 1"),
        ("[scheduler]\nname = 'fcfs'\ngroups = true", r"\[scheduler\] groups: fcfs knows no"),
        ("[scheduler]\npreemption = 'oldest'", r'\[scheduler\] preemption must be "newest" or'),
        ("[scheduler]\nadapter_patience = -1", r"\[scheduler\] adapter_patience must be at least"),
        ("[scheduler]\nadapter_patience = nan", r"\[scheduler\] adapter_patience must be"),
        ("[prices]\ninput = -1", r"\[prices\] a token price must be at least 0"),
        ("[prices]\ninput = '1'", r"\[prices\] input must be a number, not '1'"),
        ("[prices]\nimput = 1", r"\[prices\] unknown key 'imput'; known: cost, input"),
        ("[prices]\ncost = 'cubic'", r"\[prices\] cost must be \"linear\" or \"quadratic\""),
        ("[weights]\nalice = 0", r"\[weights\] the weight of 'alice' must be positive, not 0"),
        ("[weights]\nalice = true", r"\[weights\] alice must be a number, not True"),
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
