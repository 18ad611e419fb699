"""The manifests are what Kubernetes takes, and fit together."""

import tomllib
from pathlib import Path

import pytest
from kubernetes_validate import ValidationError, validate

from fairlane.cluster.config import Cluster
from fairlane.gateway.app import EVERYONE
from tests.cluster.servers import running
from tests.deploy.files import KUBERNETES, compose, manifest, manifests, pod
from tests.door.volume import SecretVolume
from tests.engines.identity.site import Town
from tests.gateway.several import in_pool
from tests.gateway.site import gateway, until
from tests.loadgen.server import CompletionServer

VERSIONS = ("1.30", "1.37")  # since 1.30 a preStop can sleep by itself
OWN = [m for m in manifests() if m["apiVersion"] != "monitoring.coreos.com/v1"]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_manifests(version: str) -> None:
    for one in OWN:
        validate(one, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("where", ["spec", "spec.template.spec", "spec.template.spec.containers.0"])
def test_a_misspelt_field_would_be_found(version: str, where: str) -> None:
    deployment = manifest("Deployment")
    part = deployment
    for name in where.split("."):
        part = part[int(name) if name.isdigit() else name]
    part["terminationGracePeriod"] = 900
    with pytest.raises(ValidationError, match="terminationGracePeriod"):
        validate(deployment, version, strict=True)


def cluster() -> Cluster:
    """With whom the gateways share."""
    text = manifest("ConfigMap")["data"]["fairlane.toml"]
    return Cluster.parse(tomllib.loads(text)["cluster"], Path())


def test_gateways_are_one_by_a_hub_of_their_own() -> None:
    """Limits and fairness are of all of them: without a hub manifests must not make two."""
    assert manifest("Deployment")["spec"]["replicas"] == 2
    made = cluster()
    assert made.same_upstreams
    assert made.shared_limits
    [port] = manifest("Service", "fairlane-hub")["spec"]["ports"]
    assert made.hub == f"redis://fairlane-hub:{port['port']}"
    hub = manifest("Deployment", "fairlane-hub")["spec"]
    assert (hub["replicas"], hub["strategy"]) == (1, {"type": "Recreate"})
    assert manifest("PodDisruptionBudget")["spec"] | {"selector": None} == {
        "maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": None,
    }  # fmt: skip


def test_the_hub_takes_the_password_that_gateways_have() -> None:
    [hub] = manifest("Deployment", "fairlane-hub")["spec"]["template"]["spec"]["containers"]
    [gateway] = pod()["containers"]
    name = cluster().password_env
    assert name is not None
    assert hub["args"][-2:] == ["--requirepass", f"$({name})"]
    for container in (hub, gateway):
        secrets = [source["secretRef"]["name"] for source in container["envFrom"]]
        assert any(name in manifest("Secret", one)["stringData"] for one in secrets)


def test_a_hub_started_like_that_serves_two_gateways(tmp_path: Path) -> None:
    """With the options of the manifest, and of Compose, and the password of the Secret."""
    [container] = manifest("Deployment", "fairlane-hub")["spec"]["template"]["spec"]["containers"]
    _, *words = compose()["services"]["hub"]["command"]
    assert container["args"][: len(words)] == words
    with running("valkey", tmp_path, words) as hub, CompletionServer() as upstream:
        made = in_pool(hub, same_upstreams=True, shared_limits=True)
        with gateway(upstream.url, cluster=made) as one, gateway(upstream.url, cluster=made) as two:
            for site in (one, two):
                shared = site.running.shared
                assert shared is not None
                until(lambda state=shared.exchange.state: state.members == 2)  # type: ignore[misc]


def test_whoever_selects_pods_finds_those_of_the_deployment() -> None:
    for name in ("fairlane", "fairlane-hub"):
        labels = manifest("Deployment", name)["spec"]["template"]["metadata"]["labels"]
        assert manifest("Service", name)["spec"]["selector"] == labels
        assert manifest("Deployment", name)["spec"]["selector"]["matchLabels"] == labels
    template = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == template
    monitor = manifest("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"] == manifest("Service")["metadata"]["labels"]


def test_ports_are_called_by_their_names() -> None:
    [container] = pod()["containers"]
    [port] = manifest("Service")["spec"]["ports"]
    [endpoint] = manifest("ServiceMonitor")["spec"]["endpoints"]
    assert container["ports"] == [{"name": port["targetPort"], "containerPort": 8000}]
    assert endpoint["port"] == port["name"]
    assert container["readinessProbe"]["httpGet"]["port"] == port["targetPort"]
    assert container["readinessProbe"]["httpGet"]["path"] in EVERYONE
    assert endpoint["path"] == "/metrics"


def test_every_secret_that_is_named_has_a_template() -> None:
    [container] = pod()["containers"]
    named = {source["secretRef"]["name"] for source in container["envFrom"]}
    named |= {v["secret"]["secretName"] for v in pod()["volumes"] if "secret" in v}
    [endpoint] = manifest("ServiceMonitor")["spec"]["endpoints"]
    reference = endpoint["authorization"]["credentials"]
    assert reference["key"] in manifest("Secret", reference["name"])["stringData"]
    assert named | {reference["name"]} == {
        m["metadata"]["name"] for m in manifests() if m["kind"] == "Secret"
    }


def test_files_are_mounted_so_that_changes_arrive() -> None:
    [container] = pod()["containers"]
    assert not [mount for mount in container["volumeMounts"] if "subPath" in mount]


def test_templates_stay_templates() -> None:
    """No key that somebody holds: of the hashes nobody knows a key."""
    text = "".join(path.read_text() for path in KUBERNETES)
    hashes = [line.split('sha256 = "')[1][:64] for line in text.splitlines() if "sha256" in line]
    assert hashes
    assert all(len(set(one)) == 1 for one in hashes)


def test_a_key_that_a_secret_loses_is_refused_at_once(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.add("kept")
    kept = town.file.read_text()
    town.add("lost")
    (tmp_path / "mount").mkdir()
    volume = SecretVolume(tmp_path / "mount")
    volume.put(town.file.read_text())
    with (
        CompletionServer() as upstream,
        gateway(upstream.url, folder=tmp_path, tenants=str(volume.file)) as site,
    ):
        assert [site.complete(2, key)[0] for key in town.keys.values()] == [200, 200]
        volume.put(kept)
        assert [site.complete(2, key)[0] for key in town.keys.values()] == [200, 401]
