"""A proxy before simulated pods on one event loop, asked by an HTTP client that is not ours."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.proxy import Proxy
from kvatlas.cluster.proxy.server import ProxyServer, event_loop_factory
from kvatlas.cluster.proxy.simulator.openai_pod import OpenAiPod
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.simulator.server import SimulatedServer

MODEL = "simulated/model"
BLOCK = 16
_WAIT_S_MAX = 60.0
_PLAY_S_MAX = 100.0


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def pod(self) -> str:
        return self.headers["x-kvatlas-pod"]

    @property
    def events(self) -> list[Any]:
        """Of a stream, without the last word."""
        parts = [part.removeprefix(b"data: ") for part in self.body.split(b"\n\n") if part]
        assert parts.pop() == b"[DONE]"
        return [json.loads(part) for part in parts]


class Rig:
    """What one test has."""

    def __init__(
        self, pods: dict[str, OpenAiPod], atlas: Atlas, chooser: Chooser, server: ProxyServer
    ) -> None:
        self.pods = pods
        self.atlas = atlas
        self.chooser = chooser
        self.server = server
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_WAIT_S_MAX), connector=aiohttp.TCPConnector(limit=0)
        )
        self.urls: dict[str, str] = {}

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def counts(self) -> Mapping[str, int]:
        return self.server.proxy.counts

    def serve(self, pod: str, **serving: Any) -> None:
        """Says how a pod serves."""
        told = Serving(**{"url": self.urls[pod], **serving})
        self.atlas.set_serving(pod, ServingPod(pod=pod, model=MODEL, serving=told))

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url + path, data=data, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def complete(self, prompt: Sequence[int] | str, **fields: Any) -> Answer:
        return await self.post(
            "/v1/completions", {"model": MODEL, "prompt": prompt, "max_tokens": 4, **fields}
        )

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until it holds; fails when it does not in time."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _WAIT_S_MAX
        while not condition():
            assert loop.time() < end_s, f"not so in {_WAIT_S_MAX} s: {dict(self.counts)}"
            await asyncio.sleep(0.005)

    def reserved(self) -> int:
        """Requests that count as load somewhere."""
        return self.chooser.statistics().in_flight


def prompt(seed: int, tokens: int = 8 * BLOCK) -> list[int]:
    return [seed * 1000 + place for place in range(tokens)]


@asynccontextmanager
async def rig(
    pods: int = 2,
    config: ProxyConfig | None = None,
    choosing: ChoosingConfig | None = None,
    tokenizers: Any = None,
    **each: Any,
) -> AsyncIterator[Rig]:
    """Pods `pod0`, ... and a proxy before them. `each`: arguments of every pod."""
    atlas = Atlas(AtlasConfig(hash_seed="rig"), tokenizers=tokenizers)
    made = {name: OpenAiPod(_server(name, atlas), **each) for name in (f"pod{n}" for n in range(pods))}
    chooser = Chooser(atlas, choosing or ChoosingConfig(), tokenizers=tokenizers)
    proxy = Proxy(config or ProxyConfig(host="127.0.0.1"), chooser, atlas)
    server = ProxyServer(proxy)
    one = Rig(made, atlas, chooser, server)
    try:
        await server.start(port=0)
        for name, pod in made.items():
            one.urls[name] = await pod.start()
            one.serve(name)
        yield one
    finally:
        await one.session.close()
        await server.stop(drain_s=0.0)
        for pod in made.values():
            pod.stop()
            pod.server.close()


def _server(name: str, atlas: Atlas) -> SimulatedServer:
    numbers = itertools.count()

    def publish(payload: bytes) -> None:
        atlas.ingest(f"kv@{name}@{MODEL}".encode(), next(numbers), payload)

    return SimulatedServer(name, MODEL, block_size=BLOCK, blocks=4096, publish=publish)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    """Runs it on the event loop that the proxy runs on."""
    loop = event_loop_factory()()
    try:
        loop.run_until_complete(asyncio.wait_for(scenario, _PLAY_S_MAX))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
