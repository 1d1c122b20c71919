"""A recorded model server with sliding windows: what is predicted is what it reused, request by request."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from kvatlas import Atlas, AtlasConfig

RECORDED = Path(__file__).parent / "recorded"


class Request(msgspec.Struct):
    """One request, what the server reused of it, and what it published because of it."""

    prompt: list[int]
    salt: str | None
    cached: int
    batches: list[bytes]


def requests() -> list[Request]:
    packed = gzip.decompress((RECORDED / "vllm-0.32-windows.msgpack.gz").read_bytes())
    return msgspec.msgpack.decode(packed, type=list[Request])


@pytest.mark.parametrize("shards", [1, 3])
def test_every_request_reuses_what_was_predicted(shards: int) -> None:
    atlas = Atlas(AtlasConfig(hash_seed="recorded", shards=shards))
    sequence = 0
    states: Counter[str] = Counter()
    for number, request in enumerate(requests()):
        scores = atlas.score(request.prompt, model="tiny", cache_salt=request.salt)
        predicted = sum(match.cached_tokens for match in scores.matches)
        assert predicted == request.cached, f"request {number} of {len(request.prompt)} tokens"
        states.update(worker.truth.state for worker in atlas.statistics().workers)
        for payload in request.batches:
            atlas.ingest(b"kv@windowed@tiny", sequence, payload)
            sequence += 1
    assert states["EXACT"] > 190
    assert set(states) == {"EXACT", "PARTIAL"}
    atlas.close()
