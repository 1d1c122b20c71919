"""Atlases that share one server, what their servers say, and what must be true when all is quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from kvatlas import Atlas, AtlasConfig, ModelConfig, RemoteIndexError
from kvatlas.index._native import content_of
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.fleet.opening import open_index
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.index.remote.fleet.settings import SharingSettings
from kvatlas.ingest.atlas_remote import RemoteHome
from kvatlas.ingest.index_config import IndexConfig
from kvatlas.ingest.server_home import IndexStatus
from tests.ingest.plain_batches import batch, stored
from tests.servers.redis_server import wait_until

MODEL = "m"
TOKENS = list(range(64))
FIRST = batch(stored([1, 2], TOKENS[:32]))
SECOND = batch(stored([3, 4], TOKENS[32:], 2))
"""What goes on behind the first."""
QUICK = SharingSettings(refresh_s=0.05, trust_s=2.0, retry_s_max=0.1, full_retry_s=0.2, lane_rest_s=60.0)
Held = dict[tuple[str, int, int] | str, dict[int, int]]


class Located(Protocol):
    """A server, a cluster of them, or a proxy before one."""

    @property
    def url(self) -> str: ...


class At(NamedTuple):
    """A server of which only this is known."""

    url: str


def removed(hashes: list[int]) -> dict[str, object]:
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": None}


def cleared() -> dict[str, object]:
    return {"type": "AllBlocksCleared"}


def remote_settings(server: Located, **settings: Any) -> RemoteSettings:
    slow_machine = {"timeout_ms": 5000, "write_timeout_ms": 10_000, "backoff_ms_max": 50}
    return RemoteSettings(url=server.url, **{**slow_machine, **settings})


def new_atlas(
    server: Located,
    *,
    sharing: SharingSettings = QUICK,
    hash_seed: str | None = "s",
    atlas: dict[str, Any] | None = None,
    name: str = "",
    **settings: Any,
) -> Atlas:
    remote = remote_settings(server, **settings)
    index = IndexConfig(kind="remote", server=remote, sharing=sharing, name=name)
    models = {MODEL: ModelConfig(block_size_tokens=16)}
    return Atlas(AtlasConfig(hash_seed=hash_seed, models=models, index=index, **(atlas or {})))


def new_reader(server: Located, *, hash_seed: str | None = "s", **settings: Any) -> RemoteAtlas:
    """Once somebody has written there."""
    more = {"timeout_ms": 5000, "backoff_ms_max": 50, **settings}
    opened: list[RemoteAtlas] = []

    def is_open() -> bool:
        try:
            opened.append(open_index(server.url, hash_seed=hash_seed, sharing=QUICK, **more))
        except RemoteIndexError:
            return False
        return True

    wait_until(is_open, what="a writer has come")
    return opened[0]


@contextmanager
def closing(*atlases: Atlas | RemoteAtlas) -> Iterator[None]:
    try:
        yield
    finally:
        for atlas in atlases:
            atlas.close()


@contextmanager
def told_first(
    server: Located, *, sharing: SharingSettings = QUICK, **reading: Any
) -> Iterator[tuple[Atlas, RemoteAtlas]]:
    """An atlas that has told what pod a said first, and a reader that has heard of it."""
    atlas, reader = new_atlas(server, sharing=sharing), new_reader(server, **reading)
    with closing(atlas, reader):
        atlas.ingest(b"kv@a@m", 0, FIRST)
        settle(atlas, reader=reader)
        yield atlas, reader


def home_of(atlas: Atlas) -> RemoteHome:
    home = atlas._home
    assert isinstance(home, RemoteHome)
    return home


def status_of(atlas: Atlas) -> IndexStatus:
    status = atlas.index_status()
    assert status is not None
    return status


def settle(*atlases: Atlas, reader: RemoteAtlas | None = None) -> None:
    """All that the mirrors hold is in the server, and readers know of it."""
    for atlas in atlases:
        wait_until(partial(_is_delivered, atlas), what="all is delivered")
    for reads in [home_of(atlas).reads for atlas in atlases] + ([reader] if reader is not None else []):
        reads.refresh()


def _is_delivered(atlas: Atlas) -> bool:
    home = home_of(atlas)
    assert home.writer.failure is None, home.writer.failure
    return home.writer.is_quiet


def settle_equal(*atlases: Atlas, reader: RemoteAtlas) -> None:
    """The same, and the index equals the mirrors."""
    settle(*atlases, reader=reader)
    assert held_by_index(reader) == held_by_mirrors(*atlases)


def held_by_mirrors(*atlases: Atlas) -> Held:
    """What the mirrors hold, without what holds nothing."""
    held: Held = {}
    for atlas in atlases:
        held.update((name, blocks) for name, blocks in atlas.residency(MODEL).items() if blocks)
    return held


def held_by_index(reader: RemoteAtlas | Atlas) -> Held:
    """What a reader sees in the server, all of it: each block key with its lanes."""
    reads = reader if isinstance(reader, RemoteAtlas) else home_of(reader).reads
    reading: Any = reads._reading
    now, index = reading.now, reading._index
    keys: set[int] = set()
    for section in index.export():
        keys.update(_keys_of(section))
    names = now.fleet.lane_names
    held: Held = {}
    ordered = np.array(sorted(keys), np.uint64)
    for key, lanes in zip(ordered.tolist(), index.find(ordered), strict=True):
        for lane, mask in lanes:
            if lane in names:
                held.setdefault(names[lane], {})[key] = mask
    return held


def _keys_of(section: bytes) -> list[int]:
    return [int(key) for key in content_of(section).keys]
