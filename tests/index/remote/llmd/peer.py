"""llm-d as the facts of its format have it, in plain Python: what it writes to a server and reads from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import redis


class Entry(NamedTuple):
    """A pod entry, with its members as Go writes them."""

    PodIdentifier: str
    DeviceTier: str = "gpu"
    Speculative: bool = False
    HasGroup: bool = False
    GroupIdx: int = 0

    def field(self) -> bytes:
        return json.dumps(self._asdict(), separators=(",", ":"), ensure_ascii=False).encode()


class LlmdPeer:
    """llm-d's index over one server. Its clear and evictions find entries by what the fields say."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def add(
        self, engine_keys: Sequence[int] | None, block_keys: Sequence[int], entries: Iterable[Entry]
    ) -> None:
        pipe = self._client.pipeline(transaction=False)
        n = max(len(engine_keys), len(block_keys)) if engine_keys else 0
        for i in range(n):
            engine_key = engine_keys[i * len(engine_keys) // n] if engine_keys else 0
            pipe.zadd(f"engine:{engine_key}", {str(block_keys[i * len(block_keys) // n]): i})
        for key in block_keys:
            for entry in entries:
                pipe.hset(str(key), entry.field(), "")
        pipe.execute()

    def evict(self, engine_key: int, entries: Iterable[Entry]) -> None:
        block_keys = self._members(engine_key)
        for key in block_keys:
            self._client.hdel(key, *[entry.field() for entry in entries])
        if not any(self._client.hlen(key) for key in block_keys):
            self._client.delete(f"engine:{engine_key}")

    def clear(self, pod: str) -> None:
        for key in self._client.scan_iter("*"):
            if not key.startswith(b"engine:"):
                stale = [
                    field for field in self._client.hkeys(key) if json.loads(field)["PodIdentifier"] == pod
                ]
                if stale:
                    self._client.hdel(key, *stale)

    def lookup(self, block_keys: Sequence[int]) -> dict[int, list[Entry]]:
        """Entries of the leading blocks that anybody holds."""
        pipe = self._client.pipeline(transaction=False)
        for key in block_keys:
            pipe.hkeys(str(key))
        found: dict[int, list[Entry]] = {}
        for key, fields in zip(block_keys, pipe.execute(), strict=True):
            if not fields:
                break
            found[key] = [Entry(**json.loads(field)) for field in fields]
        return found

    def request_key(self, engine_key: int) -> int | None:
        members = self._members(engine_key)
        return int(members[-1]) if members else None

    def _members(self, engine_key: int) -> list[bytes]:
        return cast("list[bytes]", self._client.zrange(f"engine:{engine_key}", 0, -1))

    def scores(self, block_keys: Sequence[int], weights: Mapping[str, float]) -> dict[str, float]:
        """Its LongestPrefix."""
        found = self.lookup(block_keys)
        scores: dict[str, float] = {}
        going: set[str] = set()
        for number, key in enumerate(block_keys):
            best: dict[str, float] = {}
            for entry in found.get(key, ()):
                weight = weights.get(entry.DeviceTier, 1.0)
                best[entry.PodIdentifier] = max(weight, best.get(entry.PodIdentifier, weight))
            going = set(best) if number == 0 else {pod for pod in going if pod in best}
            for pod in going:
                scores[pod] = scores.get(pod, 0.0) + best[pod]
        return scores


def fields_of(client: redis.Redis, key: int) -> Any:
    """All of one hash: fields and values."""
    return client.hgetall(str(key))
