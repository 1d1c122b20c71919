"""A cluster that tokenizes, a small model's tokenizer, and chats for it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from kvatlas.actors.orders import NAMESPACE
from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ScorersConfig, ShardsConfig, TokenizersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.ingest.discovery.config import DiscoveryConfig
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import TokenizeConfig, TokenizeLimits
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.cluster.living_fleet import MODEL, Fleet
from tests.e2e.chat_tokenizer import write_chat_tokenizer

WORDS = "the router asks the atlas which server holds the blocks of this prompt. "
LIMITS = TokenizeLimits(text_bytes_max=4 << 20)


def tokenize_config(folder: Path, pods: dict[str, str] | None = None) -> TokenizeConfig:
    """Knows MODEL, from files that are written to `folder`, and what `pods` know."""
    write_chat_tokenizer(folder)
    return TokenizeConfig(
        models={MODEL: str(folder)}, pods=pods or {}, order=("models", "pods"), limits=LIMITS
    )


class HangingPod:
    """A server that takes connections and answers nobody, until it is closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._taken: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """Connections that were made to it since it last hung up."""
        return len(self._taken)

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._lock:
                    self._taken.append(connection)

    def hang_up(self) -> None:
        with self._lock:
            taken, self._taken = self._taken, []
        for connection in taken:
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.hang_up()


def chat(first: str, turns: int = 0) -> list[dict[str, Any]]:
    """A conversation of so many turns after the first message."""
    more = [
        {"role": ("assistant", "user")[turn % 2], "content": f"turn {turn}: {WORDS * 3}"}
        for turn in range(turns)
    ]
    return [{"role": "system", "content": WORDS * 4}, {"role": "user", "content": first}, *more]


def serve_chats(fleet: Fleet, tokenizers: Tokenizers, chats: list[list[dict[str, Any]]]) -> None:
    """Each at one of the servers, as its tokens."""
    with fleet.lock:
        for number, messages in enumerate(chats):
            ids = tokenizers.encode_chat(MODEL, Chat(messages=messages)).token_ids.tolist()
            fleet.prompts.append(ids)
            fleet.servers[number % len(fleet.servers)].serve(ids, 8)


@contextmanager
def cluster_of(
    name: str,
    fleet: Fleet | None,
    config: TokenizeConfig,
    tokenizers: TokenizersConfig,
    scorers: int = 0,
) -> Iterator[Client]:
    whole = ClusterConfig(
        name=name,
        discovery=DiscoveryConfig() if fleet is None else fleet.discovery,
        shards=ShardsConfig(count=1, table_bytes_max=64 << 20),
        tokenize=config,
        tokenizers=tokenizers,
        scorers=ScorersConfig(count=scorers),
    )
    try:
        with launch.start(whole) as client:
            yield client
    finally:
        launch.down(name)


def actor(client: Client, number: int) -> Any:
    """A tokenizer's handle."""
    return ray.get_actor(f"{client.cluster}/tokenizer/{number}", namespace=NAMESPACE)


def up(client: Client) -> tuple[int, ...]:
    """Numbers of the tokenizers that this process knows to be up."""
    return client._reader().tokenizers


CHATS = [chat(f"question {number}: {WORDS}", turns=4) for number in range(12)]
"""Twelve conversations that differ from their first question on."""
