"""A pod that answers with whatever bytes a test gives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from kvatlas.index.choosing.serving import Serving, ServingPod
from tests.cluster.proxy.proxy_rig import MODEL, Rig

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole one, with its true length."""
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class LyingPod:
    """`script` writes each answer; requests are kept as they came."""

    def __init__(self, script: Script | bytes) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                if isinstance(self.script, bytes):
                    writer.write(self.script)
                else:
                    await self.script(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def lying(one: Rig, script: Script | bytes, name: str = "liar") -> AsyncIterator[LyingPod]:
    """Such a pod among those of a rig."""
    pod = LyingPod(script)
    server = await asyncio.start_server(pod.serve, "127.0.0.1", 0)
    one.urls[name] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    one.atlas.set_serving(name, ServingPod(pod=name, model=MODEL, serving=Serving(url=one.urls[name])))
    try:
        yield pod
    finally:
        server.close()
