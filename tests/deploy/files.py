"""What deploy/ would start, and where: command lines, and the files that they find."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


@dataclass(frozen=True)
class Start:
    """One way to start the gateway.

    command: words after the program's name. files: by the path that the process sees. environment:
    names of variables that are set. upstream: the engine's address in the configuration.
    """

    command: list[str]
    files: Mapping[str, str]
    environment: tuple[str, ...] = ()
    upstream: str = ""

    def laid_out(self, folder: Path, upstream: str) -> list[str]:
        """The command with its files under `folder` and with another engine."""
        for name, text in self.files.items():
            path = folder / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            moved = text.replace('"/etc/', f'"{folder}/etc/')
            path.write_text(moved.replace(self.upstream, upstream))
        return [word.replace("/etc/", f"{folder}/etc/") for word in self.command]


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit, by section and name: "Service.ExecStart"."""
    settings: dict[str, list[str]] = {}
    section = ""
    for line in (DEPLOY / "systemd" / "fairlane-gateway.service").read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(f"{section}.{name}", []).append(value)
    return settings


def by_systemd() -> Start:
    """As the unit starts it."""
    [line] = unit()["Service.ExecStart"]
    text = (DEPLOY / "systemd" / "fairlane.toml").read_text()
    files = {"/etc/fairlane/fairlane.toml": text, "/etc/fairlane/tenants.toml": "[tenants.a]\n"}
    return Start(shlex.split(line)[1:], files, upstream="http://127.0.0.1:8001")


def by_image() -> Start:
    """As the image does by itself, with the files of compose."""
    [words] = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    started = by_compose()
    return Start(yaml.safe_load(words), started.files, upstream=started.upstream)


def by_compose() -> Start:
    """As compose does."""
    text = (DEPLOY / "compose" / "fairlane.toml").read_text()
    files = {"/etc/fairlane/fairlane.toml": text, "/etc/fairlane/tenants.toml": "[tenants.a]\n"}
    return Start(compose()["services"]["gateway"]["command"], files, upstream="http://engine:8001")


def by_kubernetes() -> Start:
    """As the Deployment does, with what it mounts and takes into its environment."""
    [container] = pod()["containers"]
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    files = {
        f"{mount['mountPath']}/{name}": text
        for mount in container["volumeMounts"]
        for name, text in _content(volumes[mount["name"]]).items()
    }
    keys = [
        name
        for source in container["envFrom"]
        for name in manifest("Secret", source["secretRef"]["name"])["stringData"]
    ]
    return Start(container["args"], files, tuple(keys), "http://vllm:8000")


def _content(volume: Mapping[str, Any]) -> Mapping[str, str]:
    if "secret" in volume:
        found: Mapping[str, str] = manifest("Secret", volume["secret"]["secretName"])["stringData"]
    else:
        found = manifest("ConfigMap", volume["configMap"]["name"])["data"]
    return found


def compose() -> Any:
    """deploy/compose.yaml."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def manifests() -> Iterator[Any]:
    """All Kubernetes manifests."""
    for path in KUBERNETES:
        yield from yaml.safe_load_all(path.read_text())


def manifest(kind: str, name: str = "fairlane") -> Any:
    """The one of this kind and name."""
    [found] = [m for m in manifests() if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pod() -> Any:
    """What the Deployment runs."""
    return manifest("Deployment")["spec"]["template"]["spec"]
