"""A TCP proxy that knows ZeroMQ's frames: messages are lost, doubled, put out of order; connections cut.

Only what the target sends is disturbed, and never the first message of a connection: TCP does not lose
the head of a stream. Source: ZMTP 3.0, https://rfc.zeromq.org/spec/23/.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, NamedTuple

_GREETING_BYTES = 64
_MORE, _LONG, _COMMAND = 1, 2, 4
_CHUNK_BYTES = 1 << 16
_Carrier = Callable[[socket.socket, socket.socket], None]


class Faults(NamedTuple):
    """How often, from 0 to 1, a message meets with what."""

    lost: float = 0.0
    doubled: float = 0.0
    overtaken: float = 0.0
    """By the next message."""
    cut: float = 0.0
    """The connection, in the middle of the message."""


class FaultProxy:
    """Listens on a port of its own and hands on what passes to `target_port` of this machine.

    Any thread may call its methods. `close` ends its threads.
    """

    def __init__(self, target_port: int, seed: int) -> None:
        self._target_port = target_port
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._faults = Faults()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self.disturbed = 0
        """Messages lost, doubled, overtaken or cut."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._begin(self._accept)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def disturb(self, faults: Faults) -> None:
        """From now on; `Faults()` heals."""
        with self._lock:
            self._faults = faults

    def cut(self) -> None:
        """Every connection that stands."""
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in list(self._threads):
            thread.join()

    # Its threads.

    def _begin(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, target}
            self._begin(self._carry, client, target, self._plainly)
            self._begin(self._carry, target, client, self._with_faults)

    def _carry(self, source: socket.socket, sink: socket.socket, how: _Carrier) -> None:
        with contextlib.suppress(OSError, EOFError):
            how(source, sink)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source}
        source.close()

    def _plainly(self, source: socket.socket, sink: socket.socket) -> None:
        while chunk := source.recv(_CHUNK_BYTES):
            sink.sendall(chunk)

    def _with_faults(self, source: socket.socket, sink: socket.socket) -> None:
        left = _GREETING_BYTES
        while left:  # in pieces, each of which the other side waits for
            piece = source.recv(left)
            if not piece:
                return
            sink.sendall(piece)
            left -= len(piece)
        stream = source.makefile("rb")
        held, is_first = b"", True
        while True:
            message, is_command = _message(stream)
            if is_command or is_first:
                sink.sendall(message)
                is_first = is_first and is_command
                continue
            fate = self._fate()
            if fate == "cut":
                sink.sendall(message[: len(message) // 2])
                return
            if fate == "overtaken" and not held:
                held = message
                continue
            if fate != "lost":
                sink.sendall(message * (2 if fate == "doubled" else 1) + held)
                held = b""

    def _fate(self) -> str:
        with self._lock:
            drawn = self._random.random()
            for name, share in zip(self._faults._fields, self._faults, strict=True):
                drawn -= share
                if drawn < 0:
                    self.disturbed += 1
                    return name
        return ""


def _message(stream: BinaryIO) -> tuple[bytes, bool]:
    """All frames of the next message or command, as they came. Raises EOFError."""
    read, told = stream.read, b""
    while True:
        flags = _exactly(read(1), 1)
        n_length = 8 if flags[0] & _LONG else 1
        length = _exactly(read(n_length), n_length)
        n_body = int.from_bytes(length, "big")
        told += flags + length + _exactly(read(n_body), n_body)
        if not flags[0] & _MORE:
            return told, bool(flags[0] & _COMMAND)


def _exactly(got: bytes, n_bytes: int) -> bytes:
    if len(got) < n_bytes:
        raise EOFError
    return got
