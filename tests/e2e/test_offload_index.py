"""The index beside real model servers whose blocks go to a store: files show while they are there, no longer.

Announced by the engine's own events, and by a socket of the store's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kvatlas import Atlas, AtlasConfig, PodConfig, SourceConfig, Subscriber, block_keys
from tests.e2e.conversations import fresh_prompt
from tests.e2e.test_offload_tier import files_in, forget, tier_flags
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME, VllmServer
from tests.e2e.warm_servers import WarmServer, WarmVllm
from tests.ports import free_ports

pytestmark = pytest.mark.timeout(600)  # the first test of each server waits for it to start

_STORE = "e2e"  # as tier_flags has it
_STORAGE = 8
_FILE_BYTES = 16 * 1024 + 4096
_FILES_MAX = 30
_WAIT_SECONDS_MAX = 60.0
_TIMES = {"time_limit_s": 1.0, "write_budget_s": 0.5, "lease_s": 1.5, "touch_s": 0.5}


class Index:
    """An atlas that knows the server's store by name, and listens to the server and to other sources."""

    def __init__(self, server: VllmServer, *sources: SourceConfig) -> None:
        config = AtlasConfig(hash_seed="e2e", pods={server.pod: PodConfig(stores=(_STORE,))})
        self.atlas = Atlas(config)
        own = SourceConfig(endpoint=server.events_endpoint, replay_endpoint=server.replay_endpoint)
        self.subscriber = Subscriber(self.atlas, [own, *sources])

    def __enter__(self) -> Index:
        self.subscriber.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.subscriber.stop()
        self.atlas.close()

    def stored_blocks(self, prompt: Sequence[int]) -> int:
        """Blocks of a prompt that lie in the store, as far as the tables know."""
        keys = block_keys(prompt, model=MODEL_NAME, block_size=BLOCK_SIZE_TOKENS, hash_seed="e2e")
        return sum(held.get(_STORE, 0) == _STORAGE for held in self.atlas.lookup(keys))

    def files(self) -> int:
        told = self.atlas.statistics().files.get(_STORE)
        return told.files if told is not None else 0

    def settles(self, condition: Callable[[], bool], server: VllmServer) -> None:
        """Engines send their events with a step: one is made now and then."""
        deadline_s = time.monotonic() + _WAIT_SECONDS_MAX
        while not condition():
            assert time.monotonic() < deadline_s, str(self.atlas.statistics())
            server.complete([5])
            time.sleep(0.05)


def new_server(
    warm: WarmVllm, model: Path, folder: Path, root: Path, *, pod: str = "first", **options: Any
) -> VllmServer:
    capacity = {"capacity_bytes": 2 * _FILES_MAX * _FILE_BYTES, "high_share": 0.5, "low_share": 0.3}
    return WarmServer(warm, model, folder, pod=pod, flags=tier_flags(root, **capacity, **_TIMES, **options))


@pytest.fixture(params=["engine", "socket"])
def told(
    request: pytest.FixtureRequest, warm: WarmVllm, tiny_model: Path, tmp_path: Path
) -> Iterator[tuple[VllmServer, Path, tuple[SourceConfig, ...]]]:
    """A server, its store, and where that is announced besides."""
    root = tmp_path / "kv"
    sources: tuple[SourceConfig, ...] = ()
    if request.param == "engine":
        server = new_server(warm, tiny_model, tmp_path, root)
    else:
        ports = free_ports(2)
        server = new_server(
            warm,
            tiny_model,
            tmp_path,
            root,
            events=f"tcp://*:{ports[0]}",
            events_replay=f"tcp://*:{ports[1]}",
            events_model=MODEL_NAME,
        )
        live, replay = (f"tcp://127.0.0.1:{port}" for port in ports)
        sources = (SourceConfig(endpoint=live, replay_endpoint=replay),)
    with server:
        server.wait_until_healthy()
        yield server, root, sources


def store_something(server: VllmServer, root: Path) -> None:
    """Until it writes: what comes before a new process has its share of the capacity is dropped."""
    before, deadline_s, number = files_in(root), time.monotonic() + _WAIT_SECONDS_MAX, time.monotonic_ns()
    while files_in(root) == before:
        assert time.monotonic() < deadline_s, "nothing is written"
        number += 1
        server.complete(fresh_prompt(number % 10**6, BLOCK_SIZE_TOKENS + 1))
        time.sleep(0.1)


def test_files_show_in_the_index_while_they_are_in_the_store(
    told: tuple[VllmServer, Path, tuple[SourceConfig, ...]],
) -> None:
    server, root, sources = told
    first = fresh_prompt(700, 3 * BLOCK_SIZE_TOKENS + 4)
    with Index(server, *sources) as index:
        store_something(server, root)
        server.complete(first)
        index.settles(lambda: index.stored_blocks(first) == 3, server)
        assert {worker.pod for worker in index.atlas.statistics().workers} == {server.pod}
        assert len(index.atlas.statistics().announcers) == len(sources)

        forget(server)
        index.settles(lambda: index.atlas.statistics().events["events_cleared"] > 0, server)
        assert index.stored_blocks(first) == 3, "a clear takes nothing from a store"

        server.kill()
        server.start()
        server.wait_until_healthy()
        before = len(files_in(root))
        store_something(server, root)
        server.complete(fresh_prompt(701, 2 * BLOCK_SIZE_TOKENS + 1))
        index.settles(lambda: index.files() == len(files_in(root)) >= before + 2, server)
        assert index.stored_blocks(first) == 3, "nor does a restart"

        with Index(server, *sources) as late:  # it was not there when the files were written
            late.settles(lambda: late.files() == len(files_in(root)), server)
            assert server.complete(first).cached_tokens == 3 * BLOCK_SIZE_TOKENS, "from the store"
            late.settles(lambda: late.stored_blocks(first) == 3, server)

        for number in range(6):  # 60 blocks, twice what the store may hold
            server.complete(fresh_prompt(710 + number, 10 * BLOCK_SIZE_TOKENS + 4))
            index.settles(lambda: len(files_in(root)) < _FILES_MAX, server)
        index.settles(lambda: index.stored_blocks(first) == 0, server)
        index.settles(lambda: index.files() == len(files_in(root)), server)
        assert index.atlas.statistics().files[_STORE].waiting == 0
