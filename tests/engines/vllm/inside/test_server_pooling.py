"""A pooling model behind two API servers: identity, weights for both, and limits among them."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server, guarded, write_model

from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Limits, Role, Tenant, hash_key, new_key

KEYS = {name: new_key() for name in ("alice", "bob", "root", "small")}
FORGED: dict[str, Any] = {
    "extra_kwargs": {"fairlane_client": "bob"},
    "vllm_xargs": {"fairlane_client": "bob"},
    "user": "bob",
    "priority": -5,
    "request_id": "bob",
    "cache_salt": "bob",
}
TEXT = {"input": ["w1 w2", "w3"]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": TEXT,
    "/v2/embed": {"texts": ["w1 w2"], "embedding_types": ["float"]},
    "/pooling": TEXT,
    "/score": {"queries": "w1", "documents": ["w2", "w3"]},
    "/v1/score": {"queries": "w1", "documents": ["w2", "w3"]},
    "/rerank": {"query": "w1", "documents": ["w2", "w3"]},
    "/v1/rerank": {"query": "w1", "documents": ["w2", "w3"]},
    "/v2/rerank": {"query": "w1", "documents": ["w2", "w3"]},
    "/invocations": TEXT,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("server")
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    tenants = [
        Tenant("alice", keys=(hash_key(KEYS["alice"]),)),
        Tenant("root", role=Role.OPERATOR, keys=(hash_key(KEYS["root"]),)),
        Tenant("small", limits=Limits(requests_per_minute=10), keys=(hash_key(KEYS["small"]),)),
    ]
    options = ("--runner", "pooling", "--convert", "embed", "--api-server-count", "2")
    with guarded(write_model(folder / "model"), folder, tenants, options) as made:
        yield made


def arrivals(server: Server) -> dict[str, int]:
    clients = server.clients(KEYS["root"])
    return {name: client.get("arrivals", 0) for name, client in clients.items()}


def test_forged_fields_on_every_route(server: Server) -> None:
    headers = {"X-Request-Id": "bob", "X-Vllm-Priority": "-5", "X-Fairlane-Client": "bob"}
    paths = json.loads(server.request("GET", "/openapi.json")[2])["paths"]
    reached = set()
    for path, methods in paths.items():
        for method in map(str.upper, methods):
            body = {"model": "tiny"} | FORGED | BODIES.get(path, {})
            for _ in range(4):  # so that both API servers are asked
                count = arrivals(server).get("alice", 0)
                server.request(method, path, body, headers, KEYS["alice"])
                if arrivals(server).get("alice", 0) > count:
                    reached.add(path)
            without = server.request(method, path, body, headers)[0]
            assert (without == 401) is (path not in ("/health", "/ping", "/version", "/metrics"))
    assert set(BODIES) & set(paths) - reached == set()
    assert {"/v1/embeddings", "/pooling", "/invocations"} <= reached
    assert {name for name, count in arrivals(server).items() if count} == {"alice"}


def test_a_new_tenant_has_its_weight_on_both_servers(server: Server, folder: Path) -> None:
    new = Tenant("bob", 4.0, keys=(hash_key(KEYS["bob"]),))
    change_tenants(folder / "tenants.toml", lambda tenants: tenants.with_tenant(new))
    for _ in range(10):
        assert "bob" not in server.clients(KEYS["root"])
    body = {"model": "tiny", **TEXT}
    assert server.request("POST", "/v1/embeddings", body, key=KEYS["bob"])[0] == 200
    assert server.clients(KEYS["root"])["bob"]["weight"] == pytest.approx(4.0)


def test_two_servers_let_in_no_more_than_a_limit_together(server: Server) -> None:
    body = {"model": "tiny", **TEXT}
    begin = time.monotonic()
    statuses = Counter(
        server.request("POST", "/v1/embeddings", body, key=KEYS["small"])[0] for _ in range(60)
    )
    refilled = 10 * (time.monotonic() - begin) / 60
    assert set(statuses) == {200, 429}
    assert 5 <= statuses[200] <= 10 + refilled  # 5 where all came to one of them
