"""A TCP proxy between a client and a server that delays, cuts, half-closes, garbles, drips or swallows."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

_READ_BYTES = 1 << 16
_IDLE_S = 0.02


class _Pair:
    """One connection of a client, and ours to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.answered_bytes = 0

    def close(self) -> None:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


class FaultyProxy:
    """Listens on a port of its own and passes bytes on; what is set applies to connections that are open,
    too.

    All are properties of answers, from the server to the client, unless they say otherwise.
    """

    def __init__(self, server_port: int) -> None:
        self.delay_s = 0.0
        """Each piece of an answer waits so long."""
        self.drip_bytes = 0
        """An answer arrives in pieces of so many bytes, each after `delay_s`. 0: as it comes."""
        self.cut_after_bytes: int | None = None
        """A connection is cut, with a reset, after so many bytes of answers, all in all."""
        self.swallows_answers = False
        """Questions reach the server, answers nobody."""
        self.swallows_questions = False
        """No question reaches the server."""
        self.refuses = False
        """New connections are closed at once."""
        self.garble: Callable[[bytes], bytes] | None = None
        """What becomes of a piece of an answer."""
        self.garble_question: Callable[[bytes], bytes] | None = None
        """What becomes of a piece of a question."""
        self.n_connections = 0
        """Accepted so far."""
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_IDLE_S)
        self.port: int = self._listener.getsockname()[1]
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._pairs: list[_Pair] = []
        self._threads = [threading.Thread(target=self._accept, name="faulty proxy")]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def heal(self) -> None:
        """Passes everything on again."""
        self.delay_s, self.drip_bytes, self.cut_after_bytes = 0.0, 0, None
        self.swallows_answers = self.swallows_questions = self.refuses = False
        self.garble = self.garble_question = None

    def cut_all(self) -> None:
        """Ends all connections that are open."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            with contextlib.suppress(OSError):
                pair.client.shutdown(socket.SHUT_RDWR)

    def half_close_all(self) -> None:
        """Tells clients that no more answers come; what they say is still passed on."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            with contextlib.suppress(OSError):
                pair.client.shutdown(socket.SHUT_WR)

    @property
    def n_open(self) -> int:
        """Connections open now."""
        with self._lock:
            return len(self._pairs)

    def close(self) -> None:
        self._is_over.set()
        self.cut_all()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    # --- threads --------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._is_over.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.n_connections += 1
            if self.refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=5)
            except OSError:
                client.close()
                continue
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.append(pair)
            thread = threading.Thread(target=self._pass_on, args=(pair,), name="faulty proxy's pair")
            self._threads.append(thread)
            thread.start()

    def _pass_on(self, pair: _Pair) -> None:
        try:
            with selectors.DefaultSelector() as ready:
                ready.register(pair.client, selectors.EVENT_READ, self._question)
                ready.register(pair.server, selectors.EVENT_READ, self._answer)
                while not self._is_over.is_set():
                    for key, _ in ready.select(_IDLE_S):
                        if not key.data(pair):
                            return
        except OSError:
            return
        finally:
            with self._lock:
                self._pairs.remove(pair)
            pair.close()

    def _question(self, pair: _Pair) -> bool:
        data = pair.client.recv(_READ_BYTES)
        if self.garble_question is not None:
            data = self.garble_question(data)
        if not self.swallows_questions:
            pair.server.sendall(data)
        return bool(data)

    def _answer(self, pair: _Pair) -> bool:
        data = pair.server.recv(_READ_BYTES)
        if not data:
            return False
        if self.swallows_answers:
            return True
        if self.garble is not None:
            data = self.garble(data)
        for piece in self._pieces(data):
            if self.delay_s:
                time.sleep(self.delay_s)  # the fault itself, not a wait for something
            if self._is_over.is_set() or not self._send(pair, piece):
                return False
        return True

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        step = self.drip_bytes or len(data)
        for start in range(0, len(data), step or 1):
            yield data[start : start + step]

    def _send(self, pair: _Pair, data: bytes) -> bool:
        limit = self.cut_after_bytes  # once: who has this answer may set another before the next line
        if limit is not None:
            data = data[: max(0, limit - pair.answered_bytes)]
        pair.client.sendall(data)
        pair.answered_bytes += len(data)
        return limit is None or pair.answered_bytes < limit


@contextlib.contextmanager
def faulty(server_port: int) -> Iterator[FaultyProxy]:
    """A proxy before a server on the loopback, as long as this is open."""
    proxy = FaultyProxy(server_port)
    try:
        yield proxy
    finally:
        proxy.close()
