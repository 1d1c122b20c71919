"""A real S3 server (moto's) as a process of its own, and a proxy before it that can fail in chosen ways."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

from tests.ports import free_ports

BUCKET = "kv-chunks"
_START_S = 60.0
_HEADERS = {  # the server wants to see a signature, and does not look whether it is right
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0",
    "Content-Type": "application/octet-stream",
}


class Request:
    """What a proxy was asked, for who decides what becomes of it."""

    def __init__(self, method: str, path: str, headers: Message) -> None:
        self.method, self.path, self.headers = method, path, headers


class Answer:
    """What the proxy says in place of the server, or has changed of its answer."""

    def __init__(self, status: int, body: bytes = b"") -> None:
        self.status, self.body = status, body


class FaultyProxy:
    """Forwards to a port, but for what `judge` says: an Answer, None (forward), or a wait of its own."""

    def __init__(self, to_port: int) -> None:
        self.judge: Callable[[Request], Answer | None] = lambda request: None
        self.requests: list[str] = []
        """Method and path of each."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.requests.append(f"{self.command} {self.path}")
                answer = outer.judge(Request(self.command, self.path, self.headers))
                if answer is not None:
                    self._answer(answer.status, [], answer.body)
                    return
                connection = http.client.HTTPConnection("127.0.0.1", to_port, timeout=60)
                with contextlib.closing(connection):
                    connection.request(self.command, self.path, body, dict(self.headers.items()))
                    got = connection.getresponse()
                    content = got.read()
                self._answer(got.status, got.getheaders(), content)

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                names = {name.lower() for name, _ in headers}
                for name, value in headers:
                    if name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                if "content-length" not in names:
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815 - the library's names

            def log_message(self, format: str, *args: object) -> None:
                return

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                return  # a client that has given up

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class ObjectServer:
    """moto's server; its objects are gone with it."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
        deadline_s = time.monotonic() + _START_S
        while not _listens(port):
            assert self._process.poll() is None and time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)
        self.request("PUT", f"/{BUCKET}")

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Past the code under test."""
        url = f"http://127.0.0.1:{self.port}{path}"
        asked = urllib.request.Request(url, data=body, method=method, headers=_HEADERS)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            content: bytes = answer.read()
        return content

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def object_server(folder: Path) -> Iterator[ObjectServer]:
    server = ObjectServer(free_ports(1)[0], folder / "moto.log")
    try:
        yield server
    finally:
        server.close()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
