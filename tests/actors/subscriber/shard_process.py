"""A shard on a socket in a process of its own, to be killed.

Run as a program: takes link keys, a folder for its table and its incarnation, says how it is reached,
and works until its standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from kvatlas.actors.link.server import LinkServer
from kvatlas.actors.orders import LinkKeys, Replica, ShardAsks, decode, encode
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings

_BEAT_S = 0.1


class ShardProcess:
    """The process, and its end."""

    def __init__(self, keys: LinkKeys, folder: Path, incarnation: int) -> None:
        command = [sys.executable, "-m", "tests.actors.subscriber.shard_process"]
        self._process = subprocess.Popen(
            [*command, encode(keys).hex(), str(folder), str(incarnation)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.replica = decode(bytes.fromhex(self._process.stdout.readline()), Replica)

    def kill(self) -> None:
        """As the kernel kills: nothing is said or tidied. Twice is fine."""
        self._process.kill()
        self._process.communicate()


def main() -> None:
    keys, folder, incarnation = decode(bytes.fromhex(sys.argv[1]), LinkKeys), sys.argv[2], int(sys.argv[3])
    asks = ShardAsks(layout=1, shard=0, replica=0, actor="", node_id="n")
    settings = ShardSettings(table_bytes_max=16 << 20, shared_memory_folder=folder)
    service = ShardService("c", asks, incarnation, settings)
    with LinkServer(service.handle, keys) as server:
        print(encode(service.report(server.endpoint).replica).hex(), flush=True)
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_S):
                service.heartbeat()

        threading.Thread(target=beat, daemon=True).start()
        sys.stdin.read()  # to its end
        over.set()


if __name__ == "__main__":
    main()
