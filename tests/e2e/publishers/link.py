"""The network between a server and those who listen to it: it can fall silent, or be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.e2e.publishers.publisher import Publisher

_HOST = "127.0.0.1"
_CHUNK_BYTES = 1 << 16
_UNREAD_BYTES_MAX = 1 << 14  # how much of a stream that is held may wait on this side
_CALL_SECONDS_MAX = 10.0
_CYCLES_OF_AN_ACCEPT = 10  # at most so many turns of the loop later a new connection is in `_carried`

T = TypeVar("T")


class Link:
    """Passes TCP connections on to `target`, an endpoint; listeners connect to `endpoint`.

    A context manager, with a thread of its own.
    """

    def __init__(self, target: str) -> None:
        self._target_port = urlsplit(target).port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link")
        self._thread.start()
        self._flowing = asyncio.Event()
        self._carried: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._port = self._call(self._listen(0))
        self._call(self._set_flow(True))
        self.endpoint = f"tcp://{_HOST}:{self._port}"

    def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        self._call(self._end())

    def mend(self) -> None:
        """Takes connections again."""
        self._call(self._listen(self._port))

    def hold(self) -> None:
        """Passes nothing more from the server; the connections stay, and fill up."""
        self._call(self._set_flow(False))

    def flow(self) -> None:
        self._call(self._set_flow(True))

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *error: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_CALL_SECONDS_MAX)

    async def _listen(self, port: int) -> int:
        self._server = await asyncio.start_server(self._carry, _HOST, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def _end(self) -> None:
        self._server.close()
        for _ in range(_CYCLES_OF_AN_ACCEPT):
            await asyncio.sleep(0)
        for to_listener in self._carried.values():
            to_listener.transport.abort()
        await asyncio.gather(*self._carried)

    async def _set_flow(self, flowing: bool) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    async def _carry(self, listener: asyncio.StreamReader, to_listener: asyncio.StreamWriter) -> None:
        """One connection, until either end is gone."""
        task = asyncio.current_task()
        assert task is not None
        self._carried[task] = to_listener
        with contextlib.suppress(OSError):  # the server is away
            server, to_server = await self._dial()
            await self._exchange(listener, to_listener, server, to_server)
            await _close(to_server)
        await _close(to_listener)
        del self._carried[task]

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        dialling = socket.socket()
        dialling.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BYTES_MAX)
        dialling.setblocking(False)
        try:
            await self._loop.sock_connect(dialling, (_HOST, self._target_port))
        except BaseException:
            dialling.close()
            raise
        return await asyncio.open_connection(sock=dialling, limit=_UNREAD_BYTES_MAX)

    async def _exchange(
        self,
        listener: asyncio.StreamReader,
        to_listener: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        always = asyncio.Event()
        always.set()
        ways = [
            self._loop.create_task(_pump(listener, to_server, always)),
            self._loop.create_task(_pump(server, to_listener, self._flowing)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


class Network:
    """Links to both sockets of a publisher. A context manager."""

    def __init__(self, publisher: Publisher) -> None:
        self.live = Link(publisher.endpoint)
        self.replay = Link(publisher.replay_endpoint)

    def cut(self) -> None:
        self.live.cut()
        self.replay.cut()

    def mend(self) -> None:
        self.live.mend()
        self.replay.mend()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(*error)
        self.replay.__exit__(*error)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
    """Until the source ends; a chunk that was read before the flow was held waits here."""
    while chunk := await source.read(_CHUNK_BYTES):
        await flowing.wait()
        sink.write(chunk)
        await sink.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
