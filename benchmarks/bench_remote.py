"""How long a match through a Redis here takes, how many blocks a second it is told, and llm-d's way.

llm-d's way to look up: one HKEYS for each key, in one pipeline; to read the JSON that comes is left out. Rows
of llm-d's own format (llmd_way.py) read it. Without a redis-server there are no rows.
Events tell of 512, 16 or 1 blocks; a batch holds what a subscriber gathers while the one before is under way.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import llmd_way
import numpy as np
import numpy.typing as npt
from results import Result, arguments, rated, show, timed
from timing import Contender, alternate, over

from kvatlas.index._native import SEGMENT_BLOCKS
from kvatlas.index.deltas import RECORD_HEAD
from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings

BLOCKS = 512
BATCH_BLOCKS = 8192
EVENTS = (512, 16, 1)
"""Blocks of an event."""

Keys = npt.NDArray[np.uint64]


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A redis-server of our own, without persistence; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        words = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def connected(url: str, namespace: str) -> RemoteIndex:
    """An index on a server that may still be starting."""
    settings = RemoteSettings(url=url, namespace=namespace, timeout_ms=5000, write_timeout_ms=30_000)
    index = RemoteIndex(RemoteConnection(settings), settings)
    for attempt in itertools.count():
        try:
            index.begin()
            return index
        except RemoteIndexError:
            if attempt == 10_000:
                raise
    raise AssertionError


def stored(lane: int, keys: Keys, first: int, last: int) -> bytes:
    """Records of blocks that a lane has stored, of a chain."""
    out = b""
    for begin in range(first // SEGMENT_BLOCKS * SEGMENT_BLOCKS, last, SEGMENT_BLOCKS):
        some = keys[max(first, begin) : min(last, begin + SEGMENT_BLOCKS)]
        out += RECORD_HEAD.pack(1, 1, 0, len(some), lane, 0, int(keys[begin])) + some.tobytes()
    return out


def matching(url: str, n_pods: int, samples: int) -> Result:
    random = np.random.default_rng(n_pods)
    prompts = [random.integers(2, 2**63, BLOCKS, dtype=np.uint64) for _ in range(32)]
    index = connected(url, f"match-{n_pods}")
    for pod in range(n_pods):
        index.roster.set(pod, [pod], [])
        index.apply([b"".join(stored(pod, prompt, 0, BLOCKS) for prompt in prompts)])
    assert len(index.match(prompts[0]).workers) == n_pods
    ask, pipelines = llm_d(url, n_pods, prompts)
    timings = alternate({"ours": over(index.match, prompts), "theirs": over(ask, pipelines)}, rounds=samples)
    what = f"match of {BLOCKS} blocks, {n_pods} pods hold all"
    return timed(f"remote/match/{n_pods}", what, timings["ours"], timings["theirs"])


def llm_d(url: str, n_pods: int, prompts: list[Keys]) -> tuple[Callable[[list[str]], None], list[list[str]]]:
    """Fills the server as llm-d does; how it asks, and what for."""
    import redis

    client = redis.Redis.from_url(url)
    field = '{"PodIdentifier":"pod-%d","DeviceTier":"gpu","Speculative":false,"HasGroup":false,"GroupIdx":0}'
    fields: dict[Any, Any] = {field % pod: "" for pod in range(n_pods)}
    for prompt in prompts:
        pipeline = client.pipeline(transaction=False)
        for key in prompt.tolist():
            pipeline.hset(str(key), mapping=fields)
        pipeline.execute()

    def ask(names: list[str]) -> None:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.hkeys(name)
        pipeline.execute()

    return ask, [[str(key) for key in prompt.tolist()] for prompt in prompts]


def batches(event_blocks: int, n_batches: int) -> list[bytes]:
    """What 16 pods tell: each stores chains of 512 blocks, so many blocks an event, taking turns."""
    random = np.random.default_rng(event_blocks)
    out = []
    for _ in range(n_batches):
        chains = [random.integers(2, 2**63, 512, dtype=np.uint64) for _ in range(BATCH_BLOCKS // 512)]
        turns = range(0, 512, event_blocks)
        out.append(
            b"".join(
                stored(pod, chain, at, at + event_blocks) for at in turns for pod, chain in enumerate(chains)
            )
        )
    return out


def sparse_batches(n_batches: int) -> list[bytes]:
    """The worst: as many sequences decode, so each block of a batch is of another segment."""
    random = np.random.default_rng(0)
    chains = random.integers(2, 2**63, (BATCH_BLOCKS, n_batches + 1), dtype=np.uint64)
    return [
        b"".join(stored(pod % 16, chain, at, at + 1) for pod, chain in enumerate(chains))
        for at in range(n_batches)
    ]


def telling(url: str, name: str, what: str, told: list[bytes], samples: int) -> Result:
    index = connected(url, f"tell-{name}")
    index.apply(
        [b"".join(stored(lane, np.array([7], np.uint64), 0, 1) for lane in range(16))]
    )  # lanes are known
    left = iter(told)

    def run(batch: bytes) -> None:
        index.apply([batch])

    contender = Contender(lambda: next(left), run, BATCH_BLOCKS)
    timing = alternate({"ours": contender}, rounds=samples)["ours"]
    return rated(f"remote/apply/{name}", what, timing)


def compact(url: str, quick: bool, flush: Callable[[], None]) -> list[Result]:
    """Rows of our own format; `flush` empties the server between them."""
    results, n_batches = [], 12 if quick else 40
    for n_pods in (8, 64):
        results.append(matching(url, n_pods, 21 if quick else 201))
        flush()
    for blocks in EVENTS:
        told = batches(blocks, n_batches)
        what = f"apply, {blocks} blocks an event, batches of {BATCH_BLOCKS}"
        results.append(telling(url, str(blocks), what, told, n_batches - 4))
    what = f"apply, 1 block an event, each of another sequence, batches of {BATCH_BLOCKS}"
    results.append(telling(url, "sparse", what, sparse_batches(n_batches), n_batches - 4))
    return results


def main() -> None:
    args = arguments(__doc__).parse_args()
    if shutil.which("redis-server") is None:
        print("no redis-server here: nothing is measured")
        return
    with redis_server() as url, contextlib.closing(RemoteConnection(RemoteSettings(url=url))) as connection:

        def flush() -> None:
            connection.run([Command(None, ("FLUSHALL",))], timeout_s=30)

        results = compact(url, args.quick, flush)
        results += llmd_way.results(url, quick=args.quick, flush=flush)
    show(results, args.json)


if __name__ == "__main__":
    main()
