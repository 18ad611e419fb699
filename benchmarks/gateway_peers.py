"""The gateways that are measured side by side: how each is configured, started and watched.

All stand before the same engine, have one worker process and write no access log. Fairlane has a
file of tenants and is otherwise as it comes. nginx passes bytes and does nothing else: a floor.
LiteLLM has one static key and no database.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fairlane.core.errors import FairlaneError

LITELLM = "1.108.7"
_PATIENCE_S = 180.0  # LiteLLM takes a quarter of a minute to start on an idle machine
_NGINX = """worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000;
  upstream engine {{ server {engine}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""
_LITELLM = """model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "{engine}/v1", api_key: none}}
general_settings:
  master_key: {key}
  dangerously_permit_weak_or_unset_master_key: true
  disable_spend_logs: true
litellm_settings: {{num_retries: 0, request_timeout: 600}}
"""
_FAIRLANE = """tenants = "tenants.toml"
[scheduler]
name = "{scheduler}"
[upstreams.engine]
url = "{engine}"
models = ["m"]
{window}
"""


class Missing(FairlaneError):
    """A peer that is not here; the message says how it gets here."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """One that runs. keys: with which requests come; pid: None for the engine itself."""

    name: str
    port: int
    keys: Sequence[str]
    pid: int | None = None

    def cpu_s(self) -> float:
        """User and system time of it and its children, in seconds."""
        return sum(_cpu_s(pid) for pid in _family(self.pid))

    def own_cpu_s(self) -> float:
        """The same without its children."""
        return 0.0 if self.pid is None else _cpu_s(self.pid)

    def memory_mb(self) -> float:
        """What it and its children take, shared pages shared out, in MB (of 2^20 bytes)."""
        found = 0
        for pid in _family(self.pid):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return found / 1024


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _family(pid: int | None) -> Iterator[int]:
    if pid is not None:
        yield pid
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _family(int(child))


def keys_of(tenants: int) -> list[str]:
    """A key for each of so many tenants."""
    return [f"sk-benchmark-of-tenant-{i:05d}" for i in range(tenants)]


@contextmanager
def fairlane(
    engine: str,
    folder: Path,
    *,
    tenants: int = 16,
    scheduler: str = "vtc",
    window: int | None = None,
    workers: int = 1,
    more: str = "",
    source: Path | None = None,
) -> Iterator[Gateway]:
    """`fairlane gateway`, the first key its operator's; window: learned where it is None.

    more: tables of its configuration. source: the folder of another version's packages.
    """
    keys = keys_of(tenants)
    folder.mkdir()
    (folder / "tenants.toml").write_text("".join(
        f'[tenants.t{i}]\nrole = "{"client" if i else "operator"}"\nkeys = [{{ sha256 = '
        f'"{hashlib.sha256(key.encode()).hexdigest()}", added = "2026-01-31" }}]\n'
        for i, key in enumerate(keys)
    ))  # fmt: skip
    fixed = "" if window is None else f"window = {window}"
    text = _FAIRLANE.format(engine=engine, scheduler=scheduler, window=fixed)
    (folder / "fairlane.toml").write_text(text + more)
    command = (sys.executable, "-m", "fairlane", "gateway", "--config", f"{folder}/fairlane.toml")
    many = ("--workers", str(workers))
    other = {} if source is None else {"PYTHONPATH": str(source)}
    with _started(
        "fairlane", (*command, *many, "--port"), keys, folder, environment=other
    ) as gateway:
        yield gateway


@contextmanager
def nginx(engine: str, folder: Path) -> Iterator[Gateway]:
    """nginx, passing on what comes as it comes."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
    program = shutil.which("nginx", path=path)
    if program is None:
        raise Missing("nginx is not installed; on Debian: apt-get install nginx-light")
    folder.mkdir()
    port = _free_port()
    origin = engine.removeprefix("http://")
    text = _NGINX.format(folder=folder, engine=origin, port=port)
    (folder / "nginx.conf").write_text(text)
    command = (program, "-e", f"{folder}/nginx.log", "-c", f"{folder}/nginx.conf", "-g")
    with _started("nginx", (*command, "daemon off;"), [""], folder, port) as gateway:
        yield gateway


@contextmanager
def litellm(engine: str, folder: Path) -> Iterator[Gateway]:
    """LiteLLM's proxy, from an environment of its own that is made where there is none."""
    program = _litellm_program()
    folder.mkdir()
    key = keys_of(1)[0]
    (folder / "litellm.yaml").write_text(_LITELLM.format(engine=engine, key=key))
    told = ("--config", f"{folder}/litellm.yaml", "--host", "127.0.0.1", "--num_workers", "1")
    more = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "NO_PROXY": "*"}
    more |= {"LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    command = (str(program), *told, "--port")
    with _started("litellm", command, [key], folder, environment=more) as gateway:
        yield gateway


PEERS: dict[str, Callable[[str, Path], AbstractContextManager[Gateway]]] = {
    "nginx": nginx,
    "litellm": litellm,
}


def _litellm_program() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "fairlane" / f"litellm-{LITELLM}"
    if not (place / "installed").exists():
        print(f"installing LiteLLM {LITELLM} in {place}", flush=True)
        pip = (
            f"{place}/bin/python",
            "-m",
            "pip",
            "install",
            "--quiet",
            f"litellm[proxy]=={LITELLM}",
        )
        try:
            subprocess.run([sys.executable, "-m", "venv", place], check=True, capture_output=True)
            subprocess.run(pip, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(f"LiteLLM cannot be installed: {error}") from error
        (place / "installed").touch()
    return place / "bin" / "litellm"


@contextmanager
def _started(
    name: str,
    command: Sequence[str],
    keys: Sequence[str],
    folder: Path,
    port: int | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[Gateway]:
    """Start one and wait until it answers; without a port it is told one last."""
    if port is None:
        port = _free_port()
        command = [*command, str(port)]
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(name, port, keys[0], process, log)
        yield Gateway(name, port, keys, process.pid)
    finally:
        _end(process)


def _wait_for(
    name: str, port: int, key: str, process: "subprocess.Popen[bytes]", log: Path
) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {key}"}
    )
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=10):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
    raise Missing(f"{name} did not start: {log.read_text(errors='replace')[-500:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
