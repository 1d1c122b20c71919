"""One Redis, shared with llm-d: what kvatlas writes llm-d reads, and the reverse.

python examples/redis_with_llmd.py redis://127.0.0.1:6379/9

Without a URL it starts a redis-server of its own. It writes a few keys to the database, and removes them.
llm-d is played by the commands that it sends.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import redis

import kvatlas
from kvatlas.index.deltas import RECORD_HEAD
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.llmd.lane_names import LaneNames
from kvatlas.index.remote.llmd.llmd_index import LlmdIndex
from kvatlas.index.remote.llmd.reader import LlmdReader

MODEL = "Qwen/Qwen3-32B"
SEED = "42"  # llm-d's hashSeed
PROMPT = list(range(1, 65))  # 4 blocks of 16 tokens
ADD, GPU = 1, 1


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL given, or that of a server of our own."""
    if len(sys.argv) > 1:
        yield sys.argv[1]
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        words = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        next(line for line in process.stdout if "Ready to accept connections" in line)
        try:
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def main() -> None:
    keys = kvatlas.block_keys(PROMPT, model=MODEL, block_size=16, algorithm="fnv64a_cbor", hash_seed=SEED)
    with server() as url:
        settings = RemoteSettings(url=url, format="llmd", timeout_ms=2000)
        with RemoteConnection(settings) as connection, redis.Redis.from_url(url) as llm_d:
            # kvatlas writes. Lane 0 is a pod as llm-d names it; mirrors make such records of events.
            names = LaneNames()
            names.put(0, "10.0.0.1:8000")
            writer = LlmdIndex(connection, settings, names)
            writer.apply([RECORD_HEAD.pack(ADD, GPU, 0, len(keys), 0, 0, int(keys[0])) + keys.tobytes()])
            for read in llm_d.hkeys(str(keys[0])):
                print("llm-d reads", json.loads(read))

            # llm-d writes: another pod, which holds the first two blocks, one of them on the CPU.
            for key, tier in zip(keys.tolist(), ("gpu", "cpu"), strict=False):
                entry = {"PodIdentifier": "10.0.0.2:8000", "DeviceTier": tier, "Speculative": False}
                field = json.dumps({**entry, "HasGroup": False, "GroupIdx": 0}, separators=(",", ":"))
                llm_d.hset(str(key), field, "")

            # kvatlas reads: it has heard of neither.
            index = LlmdIndex(connection, settings, LaneNames(discovers=True))
            reader = LlmdReader(index, model=MODEL, block_size=16, hash_seed=SEED)
            print("kvatlas scores", dict(sorted(reader.score(PROMPT).items())))
            worker = min(reader.fleet.views(MODEL), key=lambda view: view.pod)
            print(f"{worker.pod} is {worker.state}: {worker.doubts[0]}")

            writer.remove_lane(0)
            print("after a clear", dict(reader.score(PROMPT)))
            index.remove_lanes(index.names.discovered().values())
            print("left in the hashes:", sum(llm_d.hlen(str(key)) for key in keys.tolist()))


if __name__ == "__main__":
    main()
