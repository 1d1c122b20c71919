"""After any sequence of events, losses and restarts that ends in quiet, the index equals the mirrors."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from operator import lt
from typing import Any, NamedTuple

import msgspec
import pytest

from kvatlas import Atlas, RemoteIndexError
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import (
    MODEL,
    QUICK,
    Located,
    cleared,
    closing,
    held_by_index,
    held_by_mirrors,
    new_atlas,
    new_reader,
    removed,
    settle,
    status_of,
)
from tests.profiles import examples
from tests.servers.faults import FaultyProxy, faulty
from tests.servers.fixtures import ServerFactory
from tests.servers.redis_cluster import RedisCluster
from tests.servers.redis_server import RedisServer, wait_until

PODS = {0: (b"a", b"b"), 1: (b"c",), 2: (b"d", b"e")}
SHARING = msgspec.structs.replace(QUICK, gathered_bytes_max=16384, batch_bytes_max=4096)


class Engines:
    """What pods of one atlas say, at random."""

    def __init__(self, rng: random.Random, atlas: Atlas, pods: tuple[bytes, ...]) -> None:
        self._rng = rng
        self.atlas = atlas
        self._pods = pods
        self._seqs = dict.fromkeys(pods, 0)

    def say(self) -> None:
        pod = self._rng.choice(self._pods)
        self.atlas.ingest(b"kv@%s@m" % pod, self._seqs[pod], batch(*self._events()))
        self._seqs[pod] += 1

    def _events(self) -> list[dict[str, object]]:
        rng = self._rng
        chain, length = rng.randrange(8), rng.randrange(1, 12)
        hashes = [chain * 100 + depth + 1 for depth in range(length)]
        tokens = [chain * 7 + depth for depth in range(length) for _ in range(16)]
        medium = rng.choice(["GPU", "GPU", "CPU"])
        kind = rng.random()
        if kind < 0.6:
            return [stored(hashes, tokens, medium=medium)]
        if kind < 0.95:
            return [removed(hashes[rng.randrange(length) :]) | {"medium": medium}]
        return [cleared()]


class Fleet:
    """All atlases of a history, and their engines."""

    def __init__(self, rng: random.Random, atlases: Sequence[Atlas]) -> None:
        self._rng = rng
        self._atlases = atlases
        self._engines = [Engines(rng, atlas, PODS[n]) for n, atlas in enumerate(atlases)]

    def __call__(self) -> None:
        """Something is said."""
        for _ in range(self._rng.randrange(80)):
            self._rng.choice(self._engines).say()

    def failures(self) -> list[int]:
        """Of each writer, so far."""
        return [status_of(atlas).writer.counts.get("failures", 0) for atlas in self._atlases]


Trouble = Callable[[Fleet], object]


class World(NamedTuple):
    """Where an index is, and what can happen to it.

    Each trouble lets events go on, and is over at its end.
    """

    at: Located
    troubles: Sequence[Trouble]
    settings: dict[str, Any]


def on_one_server(rng: random.Random, server: RedisServer) -> World:
    def restart(say: Fleet) -> None:
        server.kill()
        say()
        server.start()

    def pause(say: Fleet) -> None:
        server.pause()
        say()
        server.resume()

    def full(say: Fleet) -> None:
        server.command("CONFIG", "SET", "maxmemory", "1")
        say()
        server.command("CONFIG", "SET", "maxmemory", "0")

    return World(server, [*on_any_node(rng, [server]), restart, pause, full], {})


def on_any_node(rng: random.Random, nodes: Sequence[RedisServer]) -> list[Trouble]:
    """What a node alone, or all of them, may be told."""

    def some() -> Sequence[RedisServer]:
        return nodes if rng.random() < 0.5 else [rng.choice(nodes)]

    def tell(*words: str) -> Trouble:
        return lambda say: [node.command(*words) for node in some()]

    return [
        lambda say: None,
        tell("FLUSHALL"),
        tell("CLIENT", "KILL", "TYPE", "normal"),
        tell("SCRIPT", "FLUSH"),
    ]


def on_a_cluster(rng: random.Random, cluster: RedisCluster) -> World:
    def full(say: Fleet) -> None:
        node = rng.choice(cluster.nodes)
        node.command("CONFIG", "SET", "maxmemory", "1")
        say()
        node.command("CONFIG", "SET", "maxmemory", "0")

    return World(cluster, [*on_any_node(rng, cluster.nodes), full], {"buckets": 7})


def behind_a_proxy(rng: random.Random, proxy: FaultyProxy) -> World:
    def with_(*, fails: bool = True, cuts: bool = False, **faults: object) -> Trouble:
        def trouble(say: Fleet) -> None:
            before = say.failures()
            for name, value in faults.items():
                setattr(proxy, name, value)
            proxy.cut_after_bytes = rng.randrange(200) if cuts else None
            proxy.cut_all()
            say()
            if fails:
                wait_until(lambda: all(map(lt, before, say.failures())), what="each writer fails once")
            proxy.heal()
            proxy.cut_all()  # what was swallowed is not waited for

        return trouble

    def cut(say: Fleet) -> None:
        for _ in range(4):
            say()
            rng.choice([proxy.cut_all, proxy.half_close_all])()

    # No byte as it was: of a number that was changed to another one nobody could know.
    zeros = bytes
    troubles = [
        cut,
        with_(fails=False, delay_s=0.01),
        with_(fails=False, delay_s=0.001, drip_bytes=64),
        with_(cuts=True),
        with_(swallows_answers=True),
        with_(swallows_questions=True),
        with_(garble=lambda data: zeros(len(data))),
        with_(garble_question=lambda data: zeros(len(data))),
        with_(refuses=True),
    ]
    return World(proxy, troubles, {"timeout_ms": 1000, "write_timeout_ms": 2000})


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_index_equals_the_mirrors_when_all_is_quiet(seed: int, start_server: ServerFactory) -> None:
    rng = random.Random(seed)
    server = start_server(kind="valkey" if seed % 2 else "redis")
    check_history(rng, on_one_server(rng, server))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_so_it_does_in_a_cluster(seed: int, any_cluster: RedisCluster) -> None:
    rng = random.Random(100 + seed)
    check_history(rng, on_a_cluster(rng, any_cluster))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_so_it_does_behind_a_bad_network(seed: int, any_server: RedisServer) -> None:
    rng = random.Random(200 + seed)
    with faulty(any_server.port) as proxy:
        check_history(rng, behind_a_proxy(rng, proxy))


def check_history(rng: random.Random, world: World) -> None:
    atlases = [new_atlas(world.at, sharing=SHARING, **world.settings) for _ in PODS]
    reader = new_reader(world.at, **world.settings)
    say = Fleet(rng, atlases)
    with closing(*atlases, reader):
        for _ in range(examples(8)):
            say()
            rng.choice(world.troubles)(say)
            reader.score([1] * 64, model=MODEL)
            say()
            wait_until(lambda: is_right(reader, atlases), what="the index equals the mirrors")
        for atlas in atlases:
            assert status_of(atlas).failure is None


def is_right(reader: RemoteAtlas, atlases: Sequence[Atlas]) -> bool:
    """An idle writer notices what the server lost within a second or so: until then it is not so."""
    settle(*atlases, reader=reader)
    try:
        return held_by_index(reader) == held_by_mirrors(*atlases) and reader.status().is_whole
    except RemoteIndexError:
        return False
