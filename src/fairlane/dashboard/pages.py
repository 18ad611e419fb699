"""The page's files, as they are in the package: for everyone, and framed and fed by nobody else."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fairlane.door.answers import Scope, Send, as_headers

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PAGE = "/fairlane/"
STATIC = "/fairlane/static/"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    headers: dict[str, str]
    tag: str


class Pages:
    """See the module. paths: those that are answered."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        for file in sorted(_FOLDER.rglob("*")):
            if file.suffix in _TYPES:
                name = file.relative_to(_FOLDER).as_posix()
                self._files[STATIC + name] = _read(file)
        self._files[PAGE] = self._files.pop(STATIC + "index.html")
        self.paths = frozenset({PAGE.rstrip("/"), *self._files})

    async def answer(self, path: str, scope: Scope, send: Send) -> None:
        """GET or HEAD of one of the paths."""
        file = self._files.get(path)
        if file is None:  # beside the page: relative, so that a proxy may put it anywhere
            await _send(send, 308, {"location": PAGE[1:], **HEADERS})
        elif dict(scope["headers"]).get(b"if-none-match") == file.tag.encode():
            await _send(send, 304, file.headers)
        else:
            body = file.content if scope["method"] == "GET" else b""
            await _send(send, 200, file.headers, len(file.content), body)


def _read(file: Path) -> _File:
    content = file.read_bytes()
    tag = f'"{sha256(content).hexdigest()[:20]}"'
    headers = {"content-type": _TYPES[file.suffix], "cache-control": "no-cache", "etag": tag}
    return _File(content, {**headers, "content-security-policy": _POLICY, **HEADERS}, tag)


async def _send(
    send: Send, status: int, headers: dict[str, str], length: int = 0, body: bytes = b""
) -> None:
    if status != 304:
        headers = {**headers, "content-length": str(length)}
    await send({"type": "http.response.start", "status": status, "headers": as_headers(headers)})
    await send({"type": "http.response.body", "body": body})
