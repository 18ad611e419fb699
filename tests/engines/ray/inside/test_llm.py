"""Ray Serve LLM with two replicas on one machine: who is who, and one fairness over both."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from serving import CONTENDED, Server, free_port, write_model

from fairlane.cluster.ray import NAMESPACE, RayHub
from fairlane.core.errors import FairlaneError
from fairlane.door.admission import Admission
from fairlane.door.sharing import told
from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Limits, Role, Tenant, Tenants, hash_key, new_key
from fairlane.engines.ray import build_fair_openai_app, launch
from fairlane.engines.ray.llm import Parts
from fairlane.engines.ray.serve import plan
from fairlane.engines.vllm.serve import ServeOptions
from tests.docs.markdown import read_blocks
from tests.processes import wait_until

ROOT = Path(__file__).resolve().parents[4]
KEYS = {name: new_key() for name in ("alice", "bob", "Zoë", "slow", "root")}
WEIGHTS = {"alice": 4.0}
LIMITS = {"slow": Limits(requests_per_minute=2)}  # one for each replica
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
               "OMP_NUM_THREADS": "1"}  # fmt: skip
COMPLETION = {"model": "tiny", "prompt": "w1 w2 w3 w4", "max_tokens": 12, "ignore_eos": True}
IN_FLIGHT = 12  # of each flood; four run at a time in each replica


def arguments(model: Path, config: Path, **more: Any) -> dict[str, Any]:
    """What the builder takes, for two small replicas."""
    engine = {"dtype": "float32", "enforce_eager": True, "load_format": "dummy", "block_size": 32,
              "max_model_len": 512, "max_num_seqs": 4}  # fmt: skip
    router = {"request_router_class": "pinned:Pinned"}
    llm = {
        "model_loading_config": {"model_id": "tiny", "model_source": str(model)},
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": 0.4}]},
        "deployment_config": {"num_replicas": 2, "max_ongoing_requests": 64,
                              "ray_actor_options": {"num_cpus": 0.1},
                              "request_router_config": router},
        "log_engine_metrics": False,
        "runtime_env": {"env_vars": ENVIRONMENT},
        "engine_kwargs": engine,
    }  # fmt: skip
    ingress = {
        "num_replicas": 1,
        "autoscaling_config": None,
        "ray_actor_options": {"num_cpus": 0.1},
    }
    built = {"llm_configs": [{**llm, **more}], "fairlane": str(config)}
    return {**built, "ingress_deployment_config": ingress}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a configuration with tenants."""
    made = tmp_path_factory.mktemp("llm")
    write_model(made / "model", **CONTENDED)
    everyone = {
        name: Tenant(
            name,
            WEIGHTS.get(name, 1.0),
            limits=LIMITS.get(name, Limits()),
            keys=(hash_key(key),),
            role=Role.OPERATOR if name == "root" else Role.CLIENT,
        )
        for name, key in KEYS.items()
    }
    change_tenants(made / "tenants.toml", lambda _: Tenants(everyone))
    cluster = '[cluster]\nhub = "ray"\npool = "tiny"\nevery_s = 0.1\n'
    (made / "fairlane.toml").write_text('tenants = "tenants.toml"\n' + cluster)
    return made


@pytest.fixture(scope="module")
def server(folder: Path, port: int) -> Iterator[Server]:
    app = build_fair_openai_app(arguments(folder / "model", folder / "fairlane.toml"))
    serve.run(app, route_prefix="/")
    yield Server(None, f"http://127.0.0.1:{port}", folder)
    serve.delete("default")


def ask(server: Server, key: str | None, headers: dict[str, str] | None = None, **more: Any) -> Any:
    """Status and body of a completion."""
    status, _, body = server.request("POST", "/v1/completions", COMPLETION | more, headers, key)
    return status, body


def totals() -> dict[str, dict[str, float]]:
    """What each client was served by each replica, added up; as the replicas tell each other."""
    found: dict[str, dict[str, float]] = {}
    for clients in told(asyncio.run(RayHub(pool="tiny").posts())).values():
        for client, row in clients.items():
            known = found.setdefault(client, {})
            for name, value in row.items():
                known[name] = known.get(name, 0.0) + value
    return found


# -- who is who ----------------------------------------------------------------------------------


def test_each_request_is_its_keys_whatever_else_it_says(server: Server) -> None:
    forged = {"X-Fairlane-Client": "alice"}
    assert ask(server, None)[0] == ask(server, "nonsense")[0] == ask(server, None, forged)[0] == 401
    assert ask(server, KEYS["bob"], {"X_Fairlane_Client": "alice"})[0] == 400
    sent = {"alice": 1, "bob": 2, "Zoë": 3}
    for name, times in sent.items():
        for i in range(times):
            status, body = ask(
                server, KEYS[name], {**forged, "x-pin": str(i)}, stream=i == 1,
                vllm_xargs={"fairlane_client": "alice"}, user="alice",
            )  # fmt: skip
            assert (status, body.count("data: {") > 5) == (200, i == 1), body
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "w1"}], "max_tokens": 4}
    assert server.request("POST", "/v1/chat/completions", chat, key=KEYS["bob"])[0] == 200
    sent["bob"] += 1
    wait_until(
        lambda: {name: row["admissions"] for name, row in totals().items()},
        lambda now: now == sent, "everyone is charged for their own",
    )  # fmt: skip


def test_a_limit_is_told_and_when_to_come_again(server: Server) -> None:
    """Its replica refuses, and the ingress tells as vLLM's server does."""
    assert ask(server, KEYS["slow"])[0] == 200
    for more in ({}, {"stream": True}):
        status, headers, body = server.request(
            "POST", "/v1/completions", COMPLETION | more, key=KEYS["slow"]
        )
        assert (status, json.loads(body)["error"]["type"]) == (429, "requests"), body
        assert 0 < int(headers["retry-after"]) <= 60
    status, headers, _ = server.request("POST", "/v1/completions", COMPLETION)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")


def tenants(server: Server, name: str, query: str = "") -> dict[str, Any]:
    """What /fairlane/tenants shows somebody."""
    status, _, body = server.request("GET", f"/fairlane/tenants{query}", key=KEYS[name])
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def test_the_ingress_tells_clients_of_themselves_and_operators_of_all(server: Server) -> None:
    assert server.request("GET", "/fairlane/tenants")[0] == 401
    assert ask(server, KEYS["bob"], {"x-pin": "1"})[0] == 200

    def everywhere() -> dict[str, Any]:
        cluster = tenants(server, "root", "?model=tiny")["cluster"]
        return {name: row["admissions"] for name, row in cluster["clients"].items()}

    seen = wait_until(
        everywhere, lambda now: now == {n: r["admissions"] for n, r in totals().items()}, "told"
    )
    assert seen["bob"] > 0
    assert len(tenants(server, "root")["cluster"]["servers"]) == 2
    assert set(tenants(server, "bob")["clients"]) <= {"bob"}
    assert "cluster" not in tenants(server, "bob")
    status, _, body = server.request("GET", "/fairlane/tenants?model=other", key=KEYS["root"])
    assert (status, "?model=NAME: tiny" in body) == (400, True)


def test_a_call_by_handle_that_names_nobody_is_turned_away(server: Server) -> None:
    from ray.serve.llm.openai_api_models import CompletionRequest

    handle = serve.get_deployment_handle("FairServer:tiny", "default").options(stream=True)
    answers = list(handle.completions.remote(CompletionRequest(**COMPLETION), None))
    assert [answer.error.type for answer in answers] == ["unknown_sender"]


# -- one fairness over both ----------------------------------------------------------------------


class Floods:
    """Clients that keep replicas busy, each flood pinned to one; completions by client."""

    def __init__(self, server: Server, floods: list[tuple[str, int]]) -> None:
        self.served = Counter[str]()
        self.on = True
        self._threads = [
            threading.Thread(target=self._flood, args=(server, name, pin))
            for name, pin in floods
            for _ in range(IN_FLIGHT)
        ]

    def _flood(self, server: Server, name: str, pin: int) -> None:
        while self.on:
            status, body = ask(server, KEYS[name], {"x-pin": str(pin)})
            assert status == 200, body
            self.served[name] += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self.on = False
            for thread in self._threads:
                thread.join()

    def share(self, requests: int) -> float:
        """What alice gets of the next requests, for each that bob gets."""
        begin = Counter(self.served)
        end = wait_until(
            lambda: Counter(self.served), lambda now: now.total() - begin.total() >= requests, "-"
        )
        return (end["alice"] - begin["alice"]) / max(1, end["bob"] - begin["bob"])


class Deaf:
    """In a hub's place: answers nobody."""

    def exchange(self, push: Any) -> None:
        raise RuntimeError("deaf")


def test_shares_are_of_both_replicas_together_while_they_share_and_not_without(
    server: Server,
) -> None:
    name = RayHub(pool="tiny").name
    floods = Floods(server, [("alice", 0), ("alice", 1), ("bob", 0)])
    with floods.running():
        floods.share(60)
        assert floods.share(600) == pytest.approx(4.0, rel=0.15)
        ray.kill(ray.get_actor(name, namespace=NAMESPACE))
        deaf = ray.remote(Deaf).options(name=name, namespace=NAMESPACE, num_cpus=0).remote()
        floods.share(60)
        assert floods.share(300) > 5.5  # 9 : 1, if each is fair by itself
        ray.kill(deaf)


# -- replicas that come and go -------------------------------------------------------------------


class Limited:
    """A replica that knows its part of a limit, and looks every tenth of a second."""

    def __init__(self) -> None:
        self._admission = Admission(lambda _: None)
        self._parts: Parts | None = None

    async def __call__(self) -> int | None:
        if self._parts is None:
            self._parts = Parts(self._admission, every_s=0.1)
        return self._admission.part(12)


def test_a_replicas_part_of_a_limit_follows_how_many_there_are(port: int) -> None:
    for replicas in (1, 3, 2):
        app = serve.deployment(
            Limited, num_replicas=replicas, ray_actor_options={"num_cpus": 0.1}
        ).bind()
        handle = serve.run(app, name="limited", route_prefix=None)

        def parts(asked: Any = handle) -> set[int]:
            return {asked.remote().result() for _ in range(8)}

        wait_until(parts, lambda now, n=replicas: now == {12 // n}, "parts change")  # type: ignore[misc]
    serve.delete("limited")


# -- what the command starts ---------------------------------------------------------------------


def test_the_command_plans_what_can_be_built(folder: Path) -> None:
    options = ServeOptions(config=folder / "fairlane.toml", dummy=True, memory_tokens=4096)
    model = str(folder / "model")
    planned = plan(model, options, 2, ("--max-num-seqs", "4", "--port", str(free_port())))
    told = json.loads(planned.command[-1])
    assert build_fair_openai_app(launch.arguments(told, has_gpus=False)) is not None
    config = launch.arguments(told, has_gpus=True)["llm_configs"][0]
    assert config["deployment_config"]["num_replicas"] == 2
    assert config["engine_kwargs"] == {
        "max_num_seqs": 4, "load_format": "dummy", "block_size": 32,
        "num_gpu_blocks_override": 128,
    }  # fmt: skip


def test_the_documents_example_can_be_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    blocks = read_blocks(ROOT / "docs" / "ray.md")
    [example] = [b for b in blocks if b.language == "python" and "build_fair_openai_app" in b.text]
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(example.text, example.place, "exec"), names)
    assert names["app"] is not None


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"engine_kwargs": {"scheduler_cls": "x"}}, "Fairlane sets scheduler_cls"),
        ({"engine_kwargs": {"scheduling_policy": "priority"}}, "scheduling_policy"),
        ({"engine_kwargs": {"middleware": ["x"]}}, "Ray installs no middleware"),
        ({"server_cls": "ray.serve.llm.deployment:LLMServer"}, "server_cls"),
    ],
)
def test_what_fairlane_puts_itself_there_is_refused(
    folder: Path, more: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(FairlaneError, match=complaint):
        build_fair_openai_app(arguments(folder / "model", folder / "fairlane.toml", **more))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("[identity]\nlora = true\n", "by their adapters"), ("[cluster]\nhub = 1\n", "hub must be")],
)
def test_a_configuration_that_cannot_work_is_refused(
    folder: Path, text: str, complaint: str
) -> None:
    config = folder / "wrong.toml"
    config.write_text(text)
    with pytest.raises(FairlaneError, match=complaint):
        build_fair_openai_app(arguments(folder / "model", config))


def test_models_that_would_share_with_each_other_are_refused(folder: Path) -> None:
    given = arguments(folder / "model", folder / "fairlane.toml")
    other = json.loads(json.dumps(given["llm_configs"][0]))
    other["model_loading_config"]["model_id"] = "other"
    with pytest.raises(FairlaneError, match="make an app for each"):
        build_fair_openai_app({**given, "llm_configs": [*given["llm_configs"], other]})
