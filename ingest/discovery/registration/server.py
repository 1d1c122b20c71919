"""A small HTTP server where pods register themselves.

    POST /pods        one entry (entries.py) as JSON, with `ttl_s` beside its fields; again: renews it
    DELETE /pods/ID   ends a registration
    GET /pods         what is registered

Every answer is JSON with a `version`. Nothing is kept open: one request a connection.
"""

from __future__ import annotations

import contextlib
import hmac
import http.server
import logging
import socket
import socketserver
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.discovery.config import HttpWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry
from kvatlas.ingest.discovery.pods import PodSink, WatchStatistics
from kvatlas.ingest.discovery.registration.registry import PodRegistry, Registration

VERSION = 1
"""Of requests and answers."""
_LOOK_EVERY_S = 0.1  # at connections that take too long
_TOKEN_BYTES_MAX = 4096

_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class RegistrationServer:
    """The server as a watch; what is registered is the registry's to tell.

    The thread that accepts closes connections that take too long; each other thread serves one.
    """

    def __init__(self, config: HttpWatchConfig, registry: PodRegistry) -> None:
        self.config = config
        self.registry = registry
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def port(self) -> int:
        """The one that it listens at; 0: it does not yet."""
        return 0 if self._server is None else int(self._server.server_address[1])

    def start(self, sink: PodSink) -> None:
        """Raises ConfigError when the address cannot be listened at."""
        try:
            self._server = _Server(self)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{self.name}: expected to listen at {self.config.host}:{self.config.port}, {error}"
            ) from None
        is_open = self.config.token is None and self.config.token_file is None
        if is_open and not self.config.host.startswith(("127.", "localhost", "::1")):
            _log.warning("discovery: %s listens at %s without a token", self.name, self.config.host)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_EVERY_S,), name="kvatlas-registration", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server.close_connections()

    def statistics(self) -> WatchStatistics:
        """`pods` is 0: they are counted where they are kept."""
        with self._lock:
            return WatchStatistics(name=self.name, pods=0, counts=dict(self.counts))

    def count(self, kind: str) -> None:
        with self._lock:
            self.counts[kind] += 1

    # Requests.

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        """Status and what is said as JSON."""
        try:
            self._authorize(token)
            status, said = self._do(method, urlsplit(path).path, body)
            self.count("answered")
        except _RefusedError as error:
            self.count("refused_requests")
            status, said = error.status, {"error": str(error)}
        except InputError as error:
            self.count("refused_requests")
            status, said = 400, {"error": str(error)}
        return status, {"version": VERSION, **said}

    def _authorize(self, token: str | None) -> None:
        wanted = self.config.token
        if self.config.token_file is not None:
            wanted = self._token_of_file(self.config.token_file)
        if wanted is None:
            return
        given = "" if token is None else token
        if not hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode()):
            raise _RefusedError(401, "expected Authorization: Bearer and the token")

    def _token_of_file(self, path: str) -> str:
        try:
            with open(path, encoding="ascii") as file:
                token = file.read(_TOKEN_BYTES_MAX).strip()
        except (OSError, ValueError):
            token = ""
        if not token:
            raise _RefusedError(503, "expected a token in the file that the server was told of, got none")
        return token

    def _do(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path.rstrip("/") == "/pods" and method == "POST":
            return self._register(body)
        if path.rstrip("/") == "/pods" and method == "GET":
            return 200, {"pods": [_shown(one) for one in self.registry.registered()]}
        if path.startswith("/pods/") and method == "DELETE":
            pod_id = unquote(path.removeprefix("/pods/"), errors="replace")
            if not self.registry.withdraw(pod_id):
                raise _RefusedError(404, f"expected a registered pod, got {pod_id[:80]!r}")
            return 200, {"pod": pod_id}
        raise _RefusedError(404, "expected POST /pods, DELETE /pods/ID or GET /pods")

    def _register(self, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            raw = msgspec.json.decode(body, type=dict[str, Any])
            ttl_s = raw.pop("ttl_s", self.config.ttl_s)
            entry = msgspec.convert(raw, PodEntry)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _RefusedError(400, f"expected a pod as JSON, {error}") from None
        if (
            isinstance(ttl_s, bool)
            or not isinstance(ttl_s, (int, float))
            or not 0 <= ttl_s <= self.config.ttl_s_max
        ):
            raise _RefusedError(400, f"ttl_s: expected 0 to {self.config.ttl_s_max}, got {str(ttl_s)[:80]}")
        if not self.registry.has_room(entry.pod):
            raise _RefusedError(429, "expected fewer pods: as many as there may be are registered")
        is_new = self.registry.register(entry.discovered(self.name), ttl_s or None)
        return (201 if is_new else 200), {"pod": entry.pod, "expires_in_s": ttl_s or None}


def _shown(registration: Registration) -> dict[str, Any]:
    """Without keys."""
    pod = registration.pod
    return {
        "pod": pod.pod,
        "model": pod.model,
        "endpoints": [source.endpoint for source in pod.sources],
        "url": pod.url,
        "serving": msgspec.to_builtins(pod.serving),
        "labels": pod.labels,
        "expires_in_s": registration.left_s,
    }


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A thread a connection, of which there are at most `connections_max`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, owner: RegistrationServer) -> None:
        self.owner = owner
        self._open: dict[socket.socket, float] = {}
        self._open_lock = threading.Lock()
        host = owner.config.host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, owner.config.port), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks the resolver for a name
        self.server_name, self.server_port = self.owner.config.host, int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._open_lock:
            has_room = len(self._open) < self.owner.config.connections_max
            if has_room:
                self._open[request] = time.monotonic() + self.owner.config.request_s_max
        if not has_room:
            self.owner.count("connections_refused")
        return has_room

    def service_actions(self) -> None:
        now_s = time.monotonic()
        with self._open_lock:
            slow = [one for one, end_s in self._open.items() if end_s <= now_s]
        for one in slow:
            self.owner.count("connections_slow")
            _end(one)

    def close_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        super().close_request(request)

    def close_connections(self) -> None:
        with self._open_lock:
            left = list(self._open)
        for one in left:
            _end(one)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.owner.count("connections_broken")


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # its thread, which may be reading, closes it


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server_version = "kvatlas"
    sys_version = ""

    @property
    def owner(self) -> RegistrationServer:
        assert isinstance(self.server, _Server)
        return self.server.owner

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.owner.config.request_s_max)

    def do_GET(self) -> None:
        self._answer(b"")

    def do_DELETE(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        most = self.owner.config.body_bytes_max
        if not (length.isascii() and length.isdecimal()):
            self._refuse(411, "expected Content-Length")
        elif len(length) > 18 or int(length) > most:
            self._refuse(413, f"expected a body of at most {most} bytes, got {length[:20]}")
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                self._answer(body)

    def _answer(self, body: bytes) -> None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        given = token.strip() if kind.lower() == "bearer" else None
        self._send(*self.owner.answer(self.command, self.path, given, body))

    def _refuse(self, status: int, why: str) -> None:
        self.owner.count("refused_requests")
        self._send(status, {"version": VERSION, "error": why})

    def _send(self, status: int, said: Any) -> None:
        content = msgspec.json.encode(said)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of requests that are no HTTP."""
        self._refuse(int(code), message or "bad request")

    def log_error(self, format: str, *args: Any) -> None:
        """Called when a read has taken too long."""
        self.owner.count("connections_slow")

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug("registration: " + format, *args)
