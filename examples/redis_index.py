"""Two processes' worth of atlases that share an index in Redis, and a router that only reads it.

    redis-server --port 6379 &
    python examples/redis_index.py redis://127.0.0.1:6379

In your system each atlas is a process that hears its own pods, with a `kvatlas.Subscriber`; here both are in
this one, and what their pods say is made up. Wants `pip install 'kvatlas[redis]'`.
"""

from __future__ import annotations

import sys
import time

import msgpack

import kvatlas
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.fleet.opening import open_index
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.ingest.index_config import IndexConfig

MODEL = "some/model"
BLOCK_SIZE = 16
PROMPT = list(range(40 * BLOCK_SIZE + 1))


def new_atlas(server: RemoteSettings, name: str) -> kvatlas.Atlas:
    """One process that hears some pods; what it hears goes into the server."""
    models = {MODEL: kvatlas.ModelConfig(block_size_tokens=BLOCK_SIZE)}
    index = IndexConfig(kind="remote", server=server, name=name)
    return kvatlas.Atlas(kvatlas.AtlasConfig(models=models, index=index))


def say_stored(atlas: kvatlas.Atlas, pod: str, n_blocks: int) -> None:
    """A model server has computed the prompt's first blocks."""
    event = {
        "type": "BlockStored",
        "block_hashes": list(range(1, n_blocks + 1)),
        "parent_block_hash": None,
        "token_ids": PROMPT[: n_blocks * BLOCK_SIZE],
        "block_size": BLOCK_SIZE,
        "extra_keys": [None] * n_blocks,
    }
    payload: bytes = msgpack.packb([time.time(), [event], None])
    atlas.ingest(f"kv@{pod}@{MODEL}".encode(), 0, payload)


def wait_for_pods(reader: RemoteAtlas, n_pods: int) -> None:
    """What is heard reaches readers within milliseconds."""
    until_s = time.monotonic() + 30
    while len(reader.score(PROMPT, model=MODEL)) < n_pods and time.monotonic() < until_s:
        reader.refresh()
        time.sleep(0.01)


def open_when_written(url: str) -> RemoteAtlas:
    """The first writer says what prompts are keyed with; a reader that comes before it is refused."""
    until_s = time.monotonic() + 30
    while True:
        try:
            return open_index(url)
        except kvatlas.RemoteIndexError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.01)


def main(server: RemoteSettings) -> None:
    one, two = new_atlas(server, "hears a"), new_atlas(server, "hears b")
    router = open_when_written(server.url)
    say_stored(one, "a", 10)
    say_stored(two, "b", 40)
    wait_for_pods(router, 2)

    scores = router.score(PROMPT, model=MODEL)
    says = "whole" if scores.is_whole else "not whole"
    print("a router that hears nobody:", dict(sorted(scores.items())), says)
    choice = kvatlas.Chooser(router).choose(PROMPT, model=MODEL)
    print(f"sends the request to {choice.pod}")

    two.close()
    router.refresh()
    print("after the second atlas has left:", dict(router.score(PROMPT, model=MODEL)))
    print("writers by session:", list(router.status().sessions))
    router.close()
    one.close()


if __name__ == "__main__":
    main(RemoteSettings(url=sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379"))
