"""A process of its own that writes into an index server until it is killed: url, pod, lease in seconds."""

from __future__ import annotations

import sys
import threading

import msgspec

from kvatlas import Atlas, AtlasConfig, ModelConfig
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.ingest.index_config import IndexConfig
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import MODEL, QUICK, TOKENS


def main(url: str, pod: str, lease_s: str) -> None:
    sharing = msgspec.structs.replace(QUICK, lease_s=float(lease_s))
    server = RemoteSettings(url=url, timeout_ms=5000, write_timeout_ms=10_000)
    index = IndexConfig(kind="remote", server=server, sharing=sharing, name=pod)
    models = {MODEL: ModelConfig(block_size_tokens=16)}
    atlas = Atlas(AtlasConfig(hash_seed="s", models=models, index=index))
    atlas.ingest(f"kv@{pod}@m".encode(), 0, batch(stored([1, 2], TOKENS[:32])))
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
