"""A server that speaks as much HTTP as a test wants: it reads questions well and answers what it is told."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Question(NamedTuple):
    path: str
    body: dict[str, Any]
    connection: int
    """Number of its connection, from 0."""
    ended: threading.Event
    """Set when the server ends."""


Answering = Callable[[Question], "bytes | Iterator[bytes]"]


def http(body: object, status: int = 200, *, more: str = "") -> bytes:
    """A whole answer with a JSON body, or with the bytes given."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} said\r\n{more}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def ids(*token_ids: int, **fields: object) -> bytes:
    """As vLLM answers /tokenize."""
    return http({"tokens": token_ids, "count": len(token_ids), "max_model_len": 1024, **fields})


class ScriptedPod:
    """Answers each question by `answering`; an iterator's pieces are sent as they come. A connection ends
    when its asker leaves, after an iterator, and after an answer that says so. A context manager."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.questions: list[Question] = []
        self.n_left = 0
        """Connections that their asker has closed."""
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ScriptedPod:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Closes all connections."""
        for one in self._connections:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def wait_until_left(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.n_left >= count, 30)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                number = len(self._connections)
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while (question := self._read(stream, number)) is not None:
                self.questions.append(question)
                answer = self.answering(question)
                for piece in (answer,) if isinstance(answer, bytes) else answer:
                    connection.sendall(piece)
                if not isinstance(answer, bytes) or b"Connection: close" in answer:
                    connection.shutdown(socket.SHUT_RDWR)
                    break
        with self._changed:
            self.n_left += 1
            self._changed.notify_all()

    def _read(self, stream: Any, number: int) -> Question | None:
        first = stream.readline()
        if not first:
            return None
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = stream.read(length)
        if len(body) < length:  # its asker has left
            return None
        return Question(first.split()[1].decode(), json.loads(body), number, self._ended)
