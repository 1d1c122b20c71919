"""llm-d's way with a Redis or Valkey, in Python, and our index of the same format beside it.

Its way: HSET and ZADD for each block and HKEYS for each key, in one pipeline without transaction, by redis-py
with hiredis; and the JSON that comes is read. `results` are rows for bench_remote.py;
python benchmarks/llmd_way.py URL prints them alone (it writes to that server).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from results import Result, rated, show, timed
from timing import Contender, alternate, over

from kvatlas.index.deltas import RECORD_HEAD
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.llmd.entries import encode_entry
from kvatlas.index.remote.llmd.lane_names import LaneNames
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex

BLOCKS = 512
BATCH_BLOCKS = 8192

Keys = npt.NDArray[np.uint64]


class LlmdWay:
    """A client that does what llm-d's does."""

    def __init__(self, url: str) -> None:
        import redis

        self._client = redis.Redis.from_url(url)

    def add(self, engine_keys: Sequence[int] | None, keys: Sequence[int], fields: Sequence[str]) -> None:
        """One event: fields into each hash, and what the engine keys mean."""
        pipeline = self._client.pipeline(transaction=False)
        for place, (engine_key, key) in enumerate(zip(engine_keys or (), keys, strict=False)):
            pipeline.zadd(f"engine:{engine_key}", {str(key): place})
        for key in keys:
            for field in fields:
                pipeline.hset(str(key), field, "")
        pipeline.execute()

    def lookup(self, names: Sequence[str]) -> list[Any]:
        """One HKEYS a key."""
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.hkeys(name)
        return pipeline.execute()

    def score(self, names: Sequence[str]) -> dict[str, float]:
        """The same, with the JSON read and the leading runs counted."""
        scores: dict[str, float] = {}
        going: set[str] = set()
        for number, fields in enumerate(self.lookup(names)):
            held = {json.loads(field)["PodIdentifier"] for field in fields}
            going = held if number == 0 else going & held
            for pod in going:
                scores[pod] = scores.get(pod, 0.0) + 1.0
        return scores


def field_of(pod: int) -> str:
    return encode_entry(f"pod-{pod}", 1).decode()


def opened(url: str, n_pods: int) -> LlmdIndex:
    """Our index of the same format: lane i is pod-i."""
    settings = RemoteSettings(url=url, format="llmd", timeout_ms=10_000, write_timeout_ms=30_000)
    names = LaneNames()
    for pod in range(n_pods):
        names.put(pod, f"pod-{pod}")
    index = LlmdIndex(RemoteConnection(settings), settings, names)
    for pod in range(n_pods):
        index.roster.set(pod, [pod], [])
    return index


def stored(lane: int, keys: Keys) -> bytes:
    return RECORD_HEAD.pack(1, 1, 0, len(keys), lane, 0, int(keys[0])) + keys.tobytes()


def matching(url: str, n_pods: int, samples: int) -> Result:
    """Ours beside llm-d's lookup with the JSON read."""
    random = np.random.default_rng(1000 + n_pods)
    prompts = [random.integers(2, 2**63, BLOCKS, dtype=np.uint64) for _ in range(16)]
    way, index = LlmdWay(url), opened(url, n_pods)
    for prompt in prompts:
        way.add(None, prompt.tolist(), [field_of(pod) for pod in range(n_pods)])
    names = [[str(key) for key in prompt.tolist()] for prompt in prompts]
    assert len(index.match(prompts[0]).workers) == len(way.score(names[0])) == n_pods
    timings = alternate(
        {"ours": over(index.match, prompts), "theirs": over(way.score, names)}, rounds=samples
    )
    what = f"llm-d's format: match of {BLOCKS} blocks, {n_pods} pods hold all"
    return timed(f"remote/llmd/match/{n_pods}", what, timings["ours"], timings["theirs"])


def telling(url: str, event_blocks: int, samples: int) -> Result:
    """Batches of 16 pods, ours, beside llm-d's event by event, which writes engine keys as well."""
    index, way = opened(url, 16), LlmdWay(url)
    random = np.random.default_rng(event_blocks)
    n_events = BATCH_BLOCKS // event_blocks

    def events() -> list[Keys]:
        return list(random.integers(2, 2**63, (n_events, event_blocks), dtype=np.uint64))

    def ours() -> bytes:
        return b"".join(stored(number % 16, keys) for number, keys in enumerate(events()))

    def theirs() -> list[list[int]]:
        return [keys.tolist() for keys in events()]

    def tell_theirs(told: list[list[int]]) -> None:
        for number, keys in enumerate(told):
            way.add([key + 1 for key in keys], keys, [field_of(number % 16)])

    timings = alternate(
        {
            "ours": Contender(ours, lambda delta: index.apply([delta]), BATCH_BLOCKS),
            "theirs": Contender(theirs, tell_theirs, BATCH_BLOCKS),
        },
        rounds=samples,
    )
    what = f"llm-d's format: apply, {event_blocks} blocks an event, batches of {BATCH_BLOCKS}"
    return rated(f"remote/llmd/apply/{event_blocks}", what, timings["ours"], timings["theirs"])


def results(url: str, *, quick: bool, flush: Callable[[], object]) -> list[Result]:
    """All rows; `flush` empties the server between them."""
    rows = []
    for n_pods in (8, 64):
        flush()
        rows.append(matching(url, n_pods, 11 if quick else 101))
    for event_blocks in (512, 16, 1):
        flush()
        rows.append(telling(url, event_blocks, 4 if quick else 16))
    return rows


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("expected the URL of a server to write to")
    import redis

    show(results(sys.argv[1], quick=True, flush=redis.Redis.from_url(sys.argv[1]).flushdb))


if __name__ == "__main__":
    main()
