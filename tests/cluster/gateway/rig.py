"""A gateway without Ray: a real atlas and chooser behind it, real HTTP in front of it."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgpack
import msgspec
import uvicorn

import kvatlas
from kvatlas.cluster.config.gateway_config import GatewayConfig
from kvatlas.cluster.gateway.desk import Desk, Elsewhere
from kvatlas.cluster.gateway.web.app import GatewayApp
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.scores import Explanation, Scores
from kvatlas.tokenize.tokenizers import Tokenizers

MODEL = "small"
BLOCK_SIZE = 16
PROMPT = list(range(1, 90))
"""Five full blocks and some; pod-a holds all, pod-b the first three."""
PATIENCE_S = 60.0


class EmbeddedBackend:
    """An atlas and a chooser, asked as a cluster's client is."""

    def __init__(self, tokenizers: Tokenizers | None = None, choosing: ChoosingConfig | None = None) -> None:
        self.atlas = kvatlas.Atlas(tokenizers=tokenizers)
        self.chooser = Chooser(self.atlas, choosing, tokenizers=tokenizers)
        self.choose = self.chooser.choose
        self.choose_async = self.chooser.choose_async
        self.prefill_done = self.chooser.prefill_done
        self.produced = self.chooser.produced
        self.completed = self.chooser.completed
        self.failed = self.chooser.failed
        self.receipt = self.chooser.receipt

    def score(self, *prompt: Any, **asked: Any) -> Scores:
        return self.atlas.score(*prompt, **asked)

    async def score_async(self, *prompt: Any, **asked: Any) -> Scores:
        return self.atlas.score(*prompt, **asked)

    def explain(self, *prompt: Any, **asked: Any) -> Explanation:
        return self.atlas.explain(*prompt, **asked)

    def pods(self) -> Any:
        return self.atlas.look(b"", model=MODEL).fleet.views(MODEL)

    def serving_pods(self) -> Mapping[str, ServingPod]:
        return self.atlas.serving_pods()


def stored(hashes: list[int], token_ids: list[int]) -> bytes:
    """A batch in which a server says that it holds these blocks."""
    event = {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": None,
        "token_ids": token_ids,
        "block_size": BLOCK_SIZE,
        "medium": "GPU",
        "extra_keys": [None] * len(hashes),
    }
    return bytes(msgpack.packb([1.7e9, [event], 0]))


def fill(backend: EmbeddedBackend) -> None:
    """Two pods that hold some of PROMPT."""
    for pod, blocks in (("pod-a", 5), ("pod-b", 3)):
        hashes = [ord(pod[-1]) * 100 + place for place in range(blocks)]
        batch = stored(hashes, PROMPT[: blocks * BLOCK_SIZE])
        backend.atlas.ingest(f"kv@{pod}@{MODEL}".encode(), 0, batch)
        serving = Serving(url=f"http://{pod}:8000", requests_max=4)
        described = ServingPod(pod=pod, model=MODEL, serving=serving, labels={"zone": pod[-1]})
        backend.atlas.set_serving(pod, described)


class Answered(NamedTuple):
    """One answer."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = self.body["error"]
        return error


class Asker:
    """Asks over HTTP, a connection a request."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        sent = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, sent, dict(headers or {}))
            return self._answered(connection.getresponse())
        finally:
            connection.close()

    def raw(self, sent: bytes) -> bytes:
        """What comes back until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            connection.sendall(sent)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def post(self, path: str, body: Any = None, **headers: str) -> Answered:
        return self.ask("POST", path, body, headers)

    def get(self, path: str, **headers: str) -> Answered:
        return self.ask("GET", path, None, headers)

    @staticmethod
    def _answered(response: http.client.HTTPResponse) -> Answered:
        content = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        is_json = headers.get("content-type", "").startswith("application/json")
        return Answered(response.status, msgspec.json.decode(content) if is_json else content, headers)


@contextmanager
def served(
    backend: EmbeddedBackend, config: GatewayConfig | None = None, elsewhere: Elsewhere | None = None
) -> Iterator[Asker]:
    """The application behind a real HTTP server on a free port."""
    app = GatewayApp(Desk(backend, elsewhere), config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app.asgi, log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield Asker(listening.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
