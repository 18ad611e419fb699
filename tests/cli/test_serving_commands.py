"""`fairlane tenants`, `serve` and `top` as a user runs them."""

import io
import json
import os
import shlex
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlane.cli import main
from fairlane.door.tenant_file import read_tenants
from fairlane.door.tenants import Limits, Role, new_key
from tests.engines.identity.site import Engine, Town, running


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[object, str, str]]:
    """Runs a command in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAIRLANE_CONFIG", raising=False)

    def run_here(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        output, errors = capsys.readouterr()
        return end.value.code, output, errors

    return run_here


Run = Callable[..., tuple[object, str, str]]


def test_a_tenants_life(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, key, said = run("tenants", "add", "alice", "--weight", "2", "--max-queued", "9")
    assert code == 0
    assert key.startswith("fl-")
    assert "only time" in said
    second = run("tenants", "add", "alice", "--requests-per-minute", "60")[1].strip()
    alice = read_tenants(Path("tenants.toml"))["alice"]
    assert (alice.weight, len(alice.keys)) == (2.0, 2)
    assert alice.limits == Limits(requests_per_minute=60, max_queued=9)
    monkeypatch.setenv("FAIRLANE_KEY", second)
    assert run("tenants", "check")[:2] == (0, "alice\n")
    assert run("tenants", "revoke", alice.keys[1].id)[0] == 0
    assert run("tenants", "check")[::2] == (2, "fairlane: the key is nobody's\n")
    assert run("tenants", "revoke", "alice")[0] == 0
    assert dict(read_tenants(Path("tenants.toml"))) == {}


def test_groups_roles_and_keys_from_elsewhere(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("tenants", "add", "acme", "--no-key")[:2] == (0, "")
    key = new_key()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
    added = run("tenants", "add", "gate", "--parent", "acme", "--role", "gateway",
                "--key-from-stdin")  # fmt: skip
    assert added[:2] == (0, "")
    found = read_tenants(Path("tenants.toml")).find(key.encode())
    assert found is not None
    assert (found.name, found.role) == ("gate", Role.GATEWAY)
    listed = json.loads(run("tenants", "list", "--json")[1])
    assert [(row["path"], len(row["keys"])) for row in listed] == [("acme", 0), ("acme/gate", 1)]
    assert key not in run("tenants", "list")[1]
    code, output, complaint = run("tenants", "add", "x", "--role", "king")
    assert (code, output) == (2, "")
    assert "unknown role 'king'" in complaint


def test_a_file_that_somebody_wrote_keeps_comments_layout_and_mode(run: Run) -> None:
    file = Path("tenants.toml")
    text = "# ours\n[tenants.alice] # research\nweight = 2 # was 1.5\n\n# the last\n[tenants.bob]\n"
    file.write_text(text)
    file.chmod(0o600)
    assert run("tenants", "add", "alice", "--max-queued", "9", "--no-key")[0] == 0
    assert file.read_text() == text.replace("was 1.5\n", "was 1.5\nmax_queued = 9\n")
    assert run("tenants", "add", "bob")[0] == 0
    (key,) = read_tenants(file)["bob"].keys
    assert run("tenants", "revoke", key.id)[0] == 0
    assert run("tenants", "revoke", "alice")[0] == 0
    assert file.read_text() == "# ours\n\n# the last\n[tenants.bob]\nkeys = [\n]\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_keys_of_openssl_are_taken_and_phrases_are_not(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, status in (
        ("5d41402abc4b2a76b9719d911017c592", 0),
        ("correcthorsebatterystaple" * 2, 2),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
        code, output, said = run("tenants", "add", "alice", "--key-from-stdin")
        assert (code, output, "must be random" in said) == (status, "", status == 2)
        assert key not in said


def test_mistakes_leave_the_file(run: Run) -> None:
    run("tenants", "add", "alice")
    before = Path("tenants.toml").read_bytes()
    for arguments in (("add", "a/b"), ("add", "bob", "--parent", "nobody"), ("revoke", "nobody")):
        code, output, complaint = run("tenants", *arguments)
        assert (code, output, complaint.count("\n")) == (2, "", 1)
    assert Path("tenants.toml").read_bytes() == before


def planned(output: str) -> tuple[dict[str, str], list[str]]:
    """The environment and the command of a dry run."""
    words = shlex.split(output)
    start = next(i for i, word in enumerate(words) if os.sep in word and "=" not in word)
    return dict(word.split("=", 1) for word in words[:start]), words[start:]


def test_serve_adds_scheduler_and_identity_and_passes_the_rest_on(run: Run) -> None:
    code, output, _ = run("serve", "org/model", "--dry-run", "--port", "0", "--max-num-seqs", "4")
    environment, command = planned(output)
    assert (code, environment) == (0, {})
    assert "org/model" in command
    assert command[-2:] == ["--middleware", "fairlane.engines.vllm.identity"]
    assert command[command.index("--scheduler-cls") + 1] == "fairlane.engines.vllm.scheduler"
    assert command[command.index("--max-num-seqs") + 1] == "4"


def test_serve_changes_the_configuration_and_not_its_file(run: Run) -> None:
    run("tenants", "add", "alice")
    config = Path("fairlane.toml")
    config.write_text(
        'tenants = "tenants.toml"\n[prices]\noutput = 3.0\n[weights]\nzoe = 2.0\n'
        "[identity]\nlora = true\n"
    )
    before = config.read_bytes()
    code, output, _ = run(
        "serve", "m", "--config", "fairlane.toml", "--rate-limit", "9", "--weights", "1,4",
        "--cost", "quadratic", "--memory-tokens", "1000", "--port", "0", "--dry-run",
    )  # fmt: skip
    environment, command = planned(output)
    written = tomllib.loads(Path(environment["FAIRLANE_CONFIG"]).read_text())
    assert code == 0
    assert written["tenants"] == str(Path("tenants.toml").resolve())
    assert written["limits"] == {"requests_per_minute": 9}
    assert written["weights"] == {"zoe": 2.0, "adapter-0": 1.0, "adapter-1": 4.0}
    assert written["prices"] == {"cost": "quadratic"}
    assert command[command.index("--num-gpu-blocks-override") + 1] == "32"
    assert config.read_bytes() == before


def test_what_serve_writes_is_what_was_configured(run: Run) -> None:
    """Whatever names hold, and however small numbers are."""
    Path("fairlane.toml").write_text(
        '[weights]\n"a\\"]\\nb=1" = 2.0\n"\\u007f\\\\ é" = 1e-6\n"x.y" = 3\n'
        "[scheduler]\ngroups = true\n[prices]\ninput = 1\noutput = 2e-20\n"
    )
    environment, _ = planned(
        run("serve", "m", "--config", "fairlane.toml", "--port", "0", "--dry-run")[1]
    )
    written = Path(environment["FAIRLANE_CONFIG"])
    assert written != Path("fairlane.toml")
    assert tomllib.loads(written.read_text()) == tomllib.loads(Path("fairlane.toml").read_text())


def test_serve_takes_a_fitted_cost_whole(run: Run) -> None:
    Path("cost.toml").write_text("[cost]\nprompt = 1\noutput_linear = 2.5\ncross = 0\n")
    arguments = ("serve", "m", "--cost", "cost.toml", "--port", "0", "--dry-run")
    environment, _ = planned(run(*arguments)[1])
    prices = tomllib.loads(Path(environment["FAIRLANE_CONFIG"]).read_text())["prices"]
    assert prices == {"cost": "quadratic", "prompt": 1, "output_linear": 2.5, "cross": 0}
    for wrong, complaint in (
        ("[cost]\npromt = 1.0\n", "unknown key 'promt'"),
        ("cost = 'linear'\n", "cost.toml: needs a table [cost]"),
    ):
        Path("cost.toml").write_text(wrong)
        code, output, said = run(*arguments)
        assert (code, output, said.count("\n")) == (2, "", 1)
        assert complaint in said


def test_the_rate_limit_of_rpm_is_the_schedulers(run: Run) -> None:
    arguments = ("serve", "m", "--scheduler", "rpm", "--rate-limit", "9", "--port", "0")
    environment, _ = planned(run(*arguments, "--dry-run")[1])
    written = tomllib.loads(Path(environment["FAIRLANE_CONFIG"]).read_text())
    assert written == {"scheduler": {"name": "rpm", "rate_limit": 9}}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--scheduler", "vtx"), "unknown scheduler 'vtx': did you mean vtc?"),
        (("--scheduler", "vtc-oracle"), "needs true output lengths"),
        (("--config", "missing.toml"), "missing.toml: cannot be read"),
        (("--grpc",), "gRPC front end"),
        (("--scheduler-cls", "x.y"), "choose by --scheduler"),
        (("--scheduling-policy", "priority"), "--scheduling-policy"),
        (("--scheduling_policy=priority",), "--scheduling-policy"),
        (("--port", "http"), "--port must be a number"),
        (("--num-adapters", "2"), "--num-adapters needs a model's folder"),
        (("--cost", "missing.toml"), "--cost is linear, quadratic or a file"),
        (("--weights", "1,2"), "--weights are of adapters, which are no clients here"),
        (("--weights", "1,2,3", "--num-adapters", "2"), "3 weights for 2 adapters"),
    ],
)
def test_serve_refuses_before_anything_starts(
    run: Run, arguments: tuple[str, ...], complaint: str
) -> None:
    code, output, said = run("serve", "m", "--dry-run", *arguments)
    assert (code, output, said.count("\n")) == (2, "", 1)
    assert complaint in said


def test_serve_sees_a_port_that_is_taken_and_keys_that_clash(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = run("serve", "m", "--dry-run", "--host", "127.0.0.1", "--port", port)[2]
        assert f"cannot listen on 127.0.0.1:{port}" in said
    run("tenants", "add", "alice")
    Path("fairlane.toml").write_text('tenants = "tenants.toml"\n')
    arguments = ("serve", "m", "--config", "fairlane.toml", "--api-key", "x", "--dry-run")
    assert "leave them out" in run(*arguments)[2]


def by_ray(run: Run, *arguments: str) -> tuple[dict[str, Any], str]:
    """What `serve --ray` hands to the process that it starts, and what it says."""
    code, output, said = run("serve", "org/model", "--ray", "--dry-run", "--port", "0", *arguments)
    assert code == 0, said
    command = planned(output)[1]
    assert command[1:3] == ["-m", "fairlane.engines.ray.launch"]
    return json.loads(command[3]), said


def test_serve_by_ray_makes_arguments_of_options_and_lets_replicas_share(run: Run) -> None:
    told, _ = by_ray(
        run, "--replicas", "3", "--max-num-seqs", "4", "--dtype=float32", "--enforce-eager",
        "--no-enable-prefix-caching", "--hf-overrides", '{"a": 1}', "--memory-tokens", "1000",
        "--served-model-name", "short",
    )  # fmt: skip
    assert told["engine"] == {
        "max_num_seqs": 4, "dtype": "float32", "enforce_eager": True,
        "enable_prefix_caching": False, "hf_overrides": {"a": 1}, "block_size": 32,
        "num_gpu_blocks_override": 32,
    }  # fmt: skip
    assert (told["model"], told["name"], told["replicas"]) == ("org/model", "short", 3)
    written = tomllib.loads(Path(told["fairlane"]).read_text())
    assert written == {"cluster": {"hub": "ray", "pool": "org/model"}}


def test_serve_by_ray_keeps_the_hub_of_the_configuration(run: Run) -> None:
    Path("fairlane.toml").write_text('[cluster]\nhub = "redis://h"\npool = "p"\n')
    told, _ = by_ray(run, "--replicas", "2", "--config", "fairlane.toml")
    written = tomllib.loads(Path(told["fairlane"]).read_text())
    assert written["cluster"] == {"hub": "redis://h", "pool": "p"}
    Path("fairlane.toml").write_text("[cluster]\nguard = 0.1\n")
    told, _ = by_ray(run, "--replicas", "2", "--config", "fairlane.toml")
    written = tomllib.loads(Path(told["fairlane"]).read_text())
    assert written["cluster"] == {"guard": 0.1, "hub": "ray", "pool": "org/model"}


def test_serve_by_ray_has_no_ranks_to_share_or_not(run: Run) -> None:
    Path("fairlane.toml").write_text("[cluster]\nranks = false\n")
    said = run("serve", "m", "--ray", "--dry-run", "--port", "0", "--config", "fairlane.toml")[2]
    assert "ranks: not with --ray" in said


def test_serve_by_ray_says_that_a_scheduler_cannot_share(run: Run) -> None:
    told, said = by_ray(run, "--replicas", "2", "--scheduler", "fcfs")
    assert "share nothing: fcfs cannot" in said
    assert "cluster" not in tomllib.loads(Path(told["fairlane"]).read_text())
    assert by_ray(run)[0]["fairlane"] is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--replicas", "2"), "--replicas: without --ray"),
        (("--ray", "--num-adapters", "2"), "--num-adapters: with --ray"),
        (("--ray", "--weights", "1,2"), "--num-adapters: with --ray"),
        (("--ray", "--api-key", "x"), "--api-key: not with --ray"),
        (("--ray", "--uds", "/s"), "--uds: not with --ray"),
        (("--ray", "--data-parallel-size", "2"), "give --replicas"),
        (("--ray", "--middleware", "x.y"), "--middleware: not with --ray"),
        (("--ray", "--scheduler-cls", "x.y"), "choose by --scheduler"),
        (("--ray", "-tp", "2"), "write options in full"),
        (("--ray", "--compilation-config.level", "2"), "as one, in JSON"),
        (("--ray", "--seed", "1", "--seed", "2"), "--seed is given twice"),
        (("--ray", "--port", "http"), "--port must be a number"),
    ],
)
def test_serve_by_ray_refuses_what_cannot_act(
    run: Run, arguments: tuple[str, ...], complaint: str
) -> None:
    code, output, said = run("serve", "m", "--dry-run", *arguments)
    assert (code, output, said.count("\n")) == (2, "", 1)
    assert complaint in said


def test_top_shows_who_got_what(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    town = Town(tmp_path)
    town.add("root", role=Role.OPERATOR)
    engine = Engine()
    engine.snapshot["bound"] = 1000.0
    engine.snapshot["observed_difference"] = 12.0
    engine.snapshot["clients"] = {
        "alice": {"service": 30.0, "queued": 2, "admissions": 2, "wait_s": 3.0, "weight": 1.0},
        "bo\x1b[2Jb": {"service": 10.0, "running": 1, "weight": 3.0},
    }
    with running(town.access(), engine) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert "put an operator's key into FAIRLANE_KEY" in run("top", url)[2]
        monkeypatch.setenv("FAIRLANE_KEY", town.keys["root"])
        code, output, _ = run("top", url)
        assert code == 0
        title, _, alice, bob = output.splitlines()
        assert title == "vtc: 2 clients, largest difference in service 12 of at most 1,000"
        assert alice.split() == ["alice", "75.0%", "25.0%", "2", "0", "0", "0", "1.50", "0", "30"]
        assert bob.startswith("bo?[2Jb")
        seen = json.loads(run("top", url, "--json")[1])
        assert [row["client"] for row in seen["rows"]] == ["alice", "bo\x1b[2Jb"]
    assert "is the server running?" in run("top", url)[2]


def test_a_gateways_header_without_a_gateway_is_told_before_the_server_starts(run: Run) -> None:
    run("tenants", "add", "alice")
    assert run("tenants", "check") == (0, "tenants.toml: 1 tenants, 1 keys\n", "")
    Path("fairlane.toml").write_text('tenants = "tenants.toml"\n[identity]\nheader = "x-org"\n')
    told = "warning: fairlane.toml: [identity] header: 'x-org' is ignored"
    assert run("tenants", "check")[2].startswith(told)
    command = ("serve", "org/model", "--config", "fairlane.toml", "--dry-run", "--port", "0")
    assert "'x-org' is ignored" in run(*command)[2]
    run("tenants", "add", "gate", "--role", "gateway")
    assert run("tenants", "check")[2] == ""
    assert run(*command)[2] == ""
    assert run("tenants", "check", "--config", "other.toml")[0] == 2


def test_tenants_are_checked_with_a_gateways_configuration(run: Run) -> None:
    run("tenants", "add", "alice", "--weight", "2")
    upstream = 'tenants = "tenants.toml"\n[upstreams.big]\nurl = "http://127.0.0.1:1"\n'
    Path("fairlane.toml").write_text(upstream)
    assert run("tenants", "check") == (0, "tenants.toml: 1 tenants, 1 keys\n", "")
    Path("fairlane.toml").write_text(f'{upstream}[scheduler]\nname = "round-robin"\n')
    assert "round-robin has no weights, but alice has one" in run("tenants", "check")[2]
    Path("fairlane.toml").write_text(f"{upstream}speed = 2\n")
    assert "[upstreams] big: unknown key 'speed'" in run("tenants", "check")[2]


@pytest.mark.parametrize("name", ["round-robin", "rpm"])
def test_a_gateways_scheduler_without_weights_is_refused_with_them(run: Run, name: str) -> None:
    run("tenants", "add", "alice", "--weight", "2")
    Path("fairlane.toml").write_text(
        'tenants = "tenants.toml"\n[upstreams.big]\nurl = "http://127.0.0.1:1"\nmodels = ["m"]\n'
    )
    arguments = ("gateway", "--config", "fairlane.toml", "--check", "--scheduler")
    assert run(*arguments, "drr")[::2] == (0, "")
    assert "warning: the weight of alice is ignored" in run(*arguments, "fcfs")[2]
    code, output, said = run(*arguments, name)
    assert (code, output) == (2, "")
    assert f"{name} has no weights, but alice has one" in said
