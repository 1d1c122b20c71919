"""JSON questions to one model server over HTTP, each bounded in time and bytes as a whole."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections import deque
from typing import NamedTuple
from urllib.parse import urlsplit

from kvatlas.index.errors import ConfigError

_IDLE_MAX = 8
"""Connections kept for the next question."""
_SEND_BYTES = 1 << 18
_PORTS = {"http": 80, "https": 443}


def check_url(url: str) -> None:
    """Raises ConfigError for what is not http(s)://HOST[:PORT][/PATH]."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
        is_good &= url.isascii() and url.isprintable() and " " not in url
        is_good &= not (parts.query or parts.fragment or parts.username or parts.password)
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(f"url of a pod: expected http://HOST:PORT, got {url[:80]!r}")


class Answer(NamedTuple):
    """What a server said."""

    status: int
    body: bytes


class PodHttp:
    """Questions to http(s)://HOST:PORT[/PATH]. Any thread may ask; each question has a connection of its own.

    Up to 8 idle connections are kept. Proxies that the environment names are not used. Raises
    ConfigError for what is no such URL.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._name = parts.netloc
        self._path = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._lock = threading.Lock()
        self._idle: deque[socket.socket] = deque()
        self._is_closed = False
        self.n_connected = 0
        """Connections made since the start."""

    def post(self, path: str, body: bytes, *, timeout_s: float, answer_bytes_max: int) -> Answer:
        """Ask once; once more where a kept connection turns out to be closed, which nobody has heard then.

        Raises OSError, ValueError or http.client.HTTPException where no whole answer comes within
        `timeout_s` and `answer_bytes_max`.
        """
        end_s = time.monotonic() + timeout_s
        request = self._head(path, len(body)) + body
        kept = self._take()
        if kept is not None:
            try:
                return self._ask(kept, request, end_s, answer_bytes_max)
            except (ConnectionError, http.client.BadStatusLine):
                pass
        return self._ask(self._connect(end_s), request, end_s, answer_bytes_max)

    def close(self) -> None:
        """Let go of idle connections, and keep none from now on."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, deque()
        for one in idle:
            one.close()

    def _head(self, path: str, n_bytes: int) -> bytes:
        lines = (
            f"POST {self._path}{path} HTTP/1.1",
            f"Host: {self._name}",
            "Content-Type: application/json",
            "Accept: application/json",
            "Accept-Encoding: identity",
            f"Content-Length: {n_bytes}",
        )
        return "\r\n".join((*lines, "", "")).encode("ascii")

    def _take(self) -> socket.socket | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self, end_s: float) -> socket.socket:
        plain = socket.create_connection((self._host, self._port), timeout=_left_s(end_s))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A handshake has its socket's timeout as a whole.
            tls = self._tls
            connection = plain if tls is None else tls.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise
        with self._lock:
            self.n_connected += 1
        return connection

    def _ask(self, connection: socket.socket, request: bytes, end_s: float, bytes_max: int) -> Answer:
        try:
            _send(connection, request, end_s)
            response = http.client.HTTPResponse(_Timed(connection, end_s), method="POST")  # type: ignore[arg-type]
            response.begin()
            body = response.read(bytes_max + 1)
            if len(body) > bytes_max:
                raise ValueError(f"got more than {bytes_max} bytes")
            is_done = response.isclosed() or response.read(1) == b""
        except BaseException:
            connection.close()
            raise
        if is_done and not response.will_close:
            self._keep(connection)
        else:
            connection.close()
        return Answer(response.status, body)


class _Timed(io.RawIOBase):
    """The receiving half of a socket, every read of which ends at one moment: no trickle holds a thread."""

    def __init__(self, connection: socket.socket, end_s: float) -> None:
        self._connection = connection
        self._end_s = end_s

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As HTTPResponse asks a socket. Closing it leaves the connection open."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._connection.settimeout(_left_s(self._end_s))
        return self._connection.recv_into(buffer)


def _send(connection: socket.socket, data: bytes, end_s: float) -> None:
    """`sendall` of a TLS socket has its timeout for each of many writes."""
    rest = memoryview(data)
    while rest:
        connection.settimeout(_left_s(end_s))
        rest = rest[connection.send(rest[:_SEND_BYTES]) :]


def _left_s(end_s: float) -> float:
    left_s = end_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s
