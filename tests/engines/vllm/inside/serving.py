"""A real vLLM server on a tiny random Llama, with the options that a user would give."""

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import MODEL

from fairlane.door.tenant_file import change_tenants
from fairlane.door.tenants import Tenant, Tenants
from tests.processes import STANDSTILL_S, size, wait_until

_PR_SET_PDEATHSIG = 1
OPTIONS = (
    "--dtype", "float32", "--enforce-eager", "--load-format", "dummy", "--max-model-len", "512",
    "--max-num-seqs", "8", "--block-size", "32", "--distributed-executor-backend", "uni",
)  # fmt: skip
PLUGIN = (
    "--scheduler-cls", "fairlane.engines.vllm.scheduler",
    "--middleware", "fairlane.engines.vllm.identity",
)  # fmt: skip
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
# A model whose steps cost more than what happens around them: 8 at a time make 500 tokens/s here.
CONTENDED = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
             "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip
# No blanks: a model that knows nothing may write them for ever where a grammar allows some.
JSON_CHARACTERS = '{}[]":,-.0123456789abcdefghijklmnopqrstuvwxyz'


def write_model(folder: Path, **changes: Any) -> Path:
    """A tiny Llama with a chat template. Its tokens: words w0..w449, and single characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 128}
    (folder / "config.json").write_text(json.dumps(MODEL | heads | changes))
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(450)), *JSON_CHARACTERS]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    settings |= {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers in lower case, body."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=STANDSTILL_S) as answer:
                status, found, text = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, found, text = error.code, error.headers, error.read()
        return status, {k.lower(): v for k, v in found.items()}, text.decode()

    def stream(self, body: Mapping[str, Any], key: str) -> "Streamed":
        """Send a completion and read it as it comes."""
        host, port = self.address
        connection = http.client.HTTPConnection(host, port, timeout=STANDSTILL_S)
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        data = json.dumps({"model": "tiny", **body, "stream": True}).encode()
        begin = time.perf_counter()
        connection.request("POST", "/v1/completions", data, sent)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        arrived = []
        while line := answer.readline():
            if line.startswith(b"data: {"):
                arrived.append(time.perf_counter())
        connection.close()
        return Streamed(begin, arrived[0], arrived[-1])

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def clients(self, key: str) -> dict[str, Any]:
        """What the server says of its clients to the operator with that key."""
        found: dict[str, Any] = told(self, key)["clients"]
        return found


def told(server: Any, key: str) -> dict[str, Any]:
    """What a server tells the operator with that key, once its engine has the time to answer.

    While it has not, the server knows of no tokens, which is not to be taken for none.
    """

    def look() -> dict[str, Any]:
        status, _, answer = server.request("GET", "/fairlane/tenants", key=key)
        assert status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found

    silent = "the scheduler did not answer"
    return wait_until(look, lambda seen: silent not in (seen.get("problem") or ""), "it answers")


def output(told: Mapping[str, Any]) -> Counter[str]:
    """Tokens that each client was given."""
    clients = told["clients"].items()
    return Counter({name: client.get("output_tokens", 0) for name, client in clients})


def as_http(key: str, body: bytes | str, *headers: str, length: int | None = None) -> bytes:
    """A completion's request, byte by byte."""
    data = body if isinstance(body, bytes) else body.encode()
    size = f"Content-Length: {len(data) if length is None else length}"
    framing = () if any(h.startswith("Transfer-Encoding") for h in headers) else (size,)
    lines = ("POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json")
    lines += (f"Authorization: Bearer {key}", *framing, *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


@dataclass
class Streamed:
    """When a request was sent, and when its first and last tokens came; in seconds."""

    sent: float
    first: float
    last: float

    @property
    def ttft(self) -> float:
        """Time to the first token."""
        return self.first - self.sent


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def start(
    model: Path, options: Sequence[str], log: Path, environment: Mapping[str, str], port: int = 0
) -> tuple[subprocess.Popen[bytes], str]:
    """Start `vllm serve` in a process group of its own. port: 0 for any that is free."""
    port = port or free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), *OPTIONS]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", *options]
    settings = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "INFO",
        # The engine and its model in one process and one thread: as two they spin, each on a core
        # of its own, while they wait, and leave none to those who bring the requests.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_end_with_parent,
            env=os.environ | settings | dict(environment),
        )  # fmt: skip
    return process, f"http://127.0.0.1:{port}"


def _end_with_parent() -> None:
    """Have Linux end this process when the tests are killed: it has a session of its own."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def running(
    model: Path,
    folder: Path,
    options: Sequence[str] = PLUGIN,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server that answers; it is stopped when the block ends."""
    log = folder / "server.log"
    process, url = start(model, options, log, environment or {})
    server = Server(process, url, log)
    try:
        wait_for(server)
        yield server
    finally:
        stop(process)


def wait_for(server: Server) -> None:
    """Until it answers."""
    log = server.log
    wait_until(lambda: size(log.parent), lambda _: _healthy(server), f"it starts, see {log}")


@contextmanager
def guarded(
    model: Path, folder: Path, tenants: Iterable[Tenant], options: Sequence[str] = (),
    configuration: str = "",
) -> Iterator[Server]:  # fmt: skip
    """A server with the plugin, these tenants and more configuration."""
    environment = configured(folder, tenants, configuration)
    with running(model, folder, (*PLUGIN, *options), environment) as server:
        yield server


def configured(folder: Path, tenants: Iterable[Tenant], configuration: str = "") -> dict[str, str]:
    """A configuration with these tenants, and the variable that names it."""
    everyone = Tenants({tenant.name: tenant for tenant in tenants})
    change_tenants(folder / "tenants.toml", lambda _: everyone)
    config = folder / "fairlane.toml"
    config.write_text('tenants = "tenants.toml"\n' + configuration)
    return {"FAIRLANE_CONFIG": str(config)}


def _healthy(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()[-5000:]
    try:
        return server.request("GET", "/health")[0] == 200
    except OSError:
        return False
