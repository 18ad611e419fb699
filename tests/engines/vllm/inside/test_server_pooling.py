"""Identity on a pooling model behind two API servers: embeddings, scores, and weights for all."""

import json
from pathlib import Path
from typing import Any

import pytest
from serving import PLUGIN, Server, running, write_model

from fairlane.engines.tenant_file import change_tenants
from fairlane.engines.tenants import Role, Tenant, Tenants, hash_key, new_key

KEYS = {name: new_key() for name in ("alice", "bob", "root")}
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


def arrivals(server: Server) -> dict[str, int]:
    clients = json.loads(server.request("GET", "/fairlane/tenants", key=KEYS["root"])[2])["clients"]
    return {name: client.get("arrivals", 0) for name, client in clients.items()}


def test_forged_fields_on_every_route(tmp_path: Path) -> None:
    roles = {"root": Role.OPERATOR}
    tenants = [
        Tenant(name, role=roles.get(name, Role.CLIENT), keys=(hash_key(key),))
        for name, key in KEYS.items()
    ]
    change_tenants(tmp_path / "tenants.toml", lambda _: Tenants({t.name: t for t in tenants}))
    config = tmp_path / "fairlane.toml"
    config.write_text('tenants = "tenants.toml"\n')
    model = write_model(tmp_path / "model")
    options = (*PLUGIN, "--runner", "pooling", "--convert", "embed", "--api-server-count", "2")
    headers = {"X-Request-Id": "bob", "X-Vllm-Priority": "-5", "X-Fairlane-Client": "bob"}
    with running(model, tmp_path, options, {"FAIRLANE_CONFIG": str(config)}) as server:
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
                assert (without == 401) is (
                    path not in ("/health", "/ping", "/version", "/metrics")
                )
        assert set(BODIES) & set(paths) - reached == set()
        assert {"/v1/embeddings", "/pooling", "/invocations"} <= reached
        assert {name for name, count in arrivals(server).items() if count} == {"alice"}
        new = Tenant("bob", 4.0, keys=(hash_key(KEYS["bob"]),))
        change_tenants(tmp_path / "tenants.toml", lambda t: t.with_tenant(new))
        for _ in range(10):
            seen = server.request("GET", "/fairlane/tenants", key=KEYS["root"])[2]
            assert "bob" not in json.loads(seen)["clients"]
        body = {"model": "tiny", **TEXT}
        assert server.request("POST", "/v1/embeddings", body, key=KEYS["bob"])[0] == 200
        seen = server.request("GET", "/fairlane/tenants", key=KEYS["root"])[2]
        assert json.loads(seen)["clients"]["bob"]["weight"] == pytest.approx(4.0)
