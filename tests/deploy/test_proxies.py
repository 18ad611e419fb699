"""The proxies in deploy/ let streams and long prompts pass, and nobody choose who it is."""

import asyncio
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from fairlane.door.tenants import Role
from fairlane.gateway.config import GatewaySection
from tests.certificates import self_signed
from tests.deploy.files import DEPLOY
from tests.engines.identity.site import Town
from tests.gateway.site import Site, gateway, port_of, until
from tests.loadgen.server import CompletionServer, chunk, event, open_stream
from tests.processes import PATIENCE_S, started

HOST = "llm.example.com"
GATEWAY = "127.0.0.1:8000"
STALLED = 7  # an answer of so many tokens stalls after the first

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def nginx(folder: Path, port: int) -> list[str]:
    """deploy/nginx.conf at a socket of this folder, before the gateway at this port."""
    text = (DEPLOY / "nginx.conf").read_text()
    for here, there in (
        (GATEWAY, f"127.0.0.1:{port}"),
        ("listen 443 ssl", f"listen unix:{folder}/socket ssl"),
        ("/etc/ssl/fairlane", str(folder)),
    ):
        assert here in text
        text = text.replace(here, there)
    (folder / "site.conf").write_text(text)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    return ["nginx", "-p", str(folder), "-c", f"{folder}/nginx.conf"]


def envoy(folder: Path, port: int) -> list[str]:
    """deploy/envoy.yaml in the same way."""
    text = (DEPLOY / "envoy.yaml").read_text()
    for here, there in (
        ("address: 127.0.0.1, port_value: 8000", f"address: 127.0.0.1, port_value: {port}"),
        ("socket_address: {address: 0.0.0.0, port_value: 443}", f"pipe: {{path: {folder}/socket}}"),
        ("/etc/ssl/fairlane", str(folder)),
    ):
        assert here in text
        text = text.replace(here, there)
    (folder / "envoy.yaml").write_text(text)
    return ["envoy", "-c", f"{folder}/envoy.yaml", "--disable-hot-restart", "-l", "error"]


Proxy = Callable[[Path, int], list[str]]
CHECKS: dict[Proxy, tuple[str, ...]] = {nginx: ("-t",), envoy: ("--mode", "validate")}


def _is_missing(proxy: Proxy) -> bool:
    return None in (shutil.which(proxy.__name__), shutil.which("openssl"))


each_proxy = pytest.mark.parametrize(
    "proxy",
    [
        pytest.param(
            proxy,
            marks=pytest.mark.skipif(
                _is_missing(proxy), reason=f"{proxy.__name__} or openssl is not installed"
            ),
        )
        for proxy in CHECKS
    ],
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a certificate; its name is short, as names of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="fairlane") as name:
        if shutil.which("openssl"):
            self_signed(Path(name), f"DNS:{HOST}")
        yield Path(name)


@each_proxy
def test_it_takes_its_configuration(proxy: Proxy, folder: Path) -> None:
    command = [*proxy(folder, 9), *CHECKS[proxy]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "key.pem").unlink()
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@dataclass
class Behind:
    """A gateway behind a proxy. go_on: is awaited by an answer that stalls."""

    folder: Path
    site: Site
    town: Town
    go_on: threading.Event

    @contextmanager
    def post(
        self, tokens: int, prompt: str = "a b", **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """The head of a streamed completion that came through the proxy."""
        context = ssl.create_default_context(cafile=str(self.folder / "fullchain.pem"))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Authorization": f"Bearer {self.town.keys['portal']}"}
        body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "stream": True}
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(PATIENCE_S)
            plain.connect(f"{self.folder}/socket")
            with context.wrap_socket(plain, server_hostname=HOST) as secure:
                connection = http.client.HTTPConnection(HOST)
                connection.sock = secure
                connection.request(
                    "POST", "/v1/completions", json.dumps({**body, "user": "u"}), named
                )
                with connection.getresponse() as answer:
                    yield answer


@pytest.fixture
def behind(proxy: Proxy, folder: Path) -> Iterator[Behind]:
    """Whoever comes has the key of a gateway, which may name clients."""
    town, go_on = Town(folder), threading.Event()
    town.add("portal", role=Role.GATEWAY)
    town.add("ops", role=Role.OPERATOR)

    async def stall(server: CompletionServer, asked: web.Request) -> web.StreamResponse:
        response = await open_stream(asked)
        await response.write(event(chunk(" first")))
        await asyncio.to_thread(go_on.wait, PATIENCE_S)
        await response.write(event(chunk(" last", "length")) + event("[DONE]"))
        return response

    with (
        CompletionServer(faults={STALLED: stall}) as upstream,
        gateway(upstream.url, folder=folder, tenants=town.file.name) as site,
        started(*proxy(folder, port_of(site.url))) as process,
    ):
        until(lambda: process.poll() is not None or listens(folder / "socket"))
        yield Behind(folder, site, town, go_on)
        go_on.set()


def listens(path: Path) -> bool:
    """Whether a connection can be made to a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@each_proxy
def test_a_token_passes_before_the_next_one_is_there(behind: Behind) -> None:
    with behind.post(STALLED) as answer:
        assert answer.status == 200
        assert b" first" in answer.readline()
        behind.go_on.set()
        assert answer.read().endswith(b"data: [DONE]\n\n")


@each_proxy
def test_a_long_prompt_passes(behind: Behind) -> None:
    with behind.post(2, "word " * 500_000) as answer:
        assert answer.status == 200
        assert answer.read().endswith(b"data: [DONE]\n\n")


@each_proxy
def test_nobody_outside_names_a_client(behind: Behind) -> None:
    """Whom the gateway itself would believe: the key is one that may."""
    with behind.post(2, X_Fairlane_Client="victim") as answer:
        assert answer.read().endswith(b"data: [DONE]\n\n")
    assert set(behind.site.clients(behind.town.keys["ops"])) == {"portal"}
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2, "stream": True, "user": "u"}
    key = behind.town.keys["portal"]
    behind.site.request("POST", "/v1/completions", body, key, x_fairlane_client="victim")
    assert set(behind.site.clients(behind.town.keys["ops"])) == {"portal", "victim"}


def test_what_they_let_pass_is_what_the_gateway_takes() -> None:
    """Sizes are the gateway's own; times are longer than anybody waits there."""
    text = (DEPLOY / "nginx.conf").read_text()
    [megabytes] = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(megabytes) << 20 == GatewaySection().max_body_bytes
    [silence] = re.findall(r"proxy_read_timeout (\d+)s;", text)
    document = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
    [listener] = document["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["stream_idle_timeout"] == f"{silence}s"
    assert int(silence) >= GatewaySection().max_wait_s + 600
    [host] = manager["route_config"]["virtual_hosts"]
    assert host["routes"][0]["route"]["timeout"] == "0s"
