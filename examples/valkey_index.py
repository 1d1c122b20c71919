"""The same as redis_index.py with Valkey: TLS, a user, bounds, and what a production server wants.

    valkey-server --port 6379 &
    python examples/valkey_index.py valkey://127.0.0.1:6379

With TLS and a user of its own, whose password stays in the environment:

    KVATLAS_INDEX_PASSWORD=... python examples/valkey_index.py \\
        'valkeys://kvatlas@index.example:6380?ca=/etc/kvatlas/ca.pem'

A cluster of Valkey: `valkey://node-1:6379,node-2:6379?cluster=true`. The server wants `maxmemory-policy
noeviction`, so that a full one says so in place of dropping blocks that nobody is told of. It needs no
persistence: writers load the index again by themselves.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from kvatlas.index.remote.connection.settings import RemoteSettings


def settings(url: str) -> RemoteSettings:
    """What a Valkey that several routers share is asked with."""
    variable = "KVATLAS_INDEX_PASSWORD"
    return RemoteSettings(
        url=url,
        password_variable=variable if variable in os.environ else "",
        namespace="kvatlas",
        ttl_s=24 * 3600,  # what nobody stored or read for a day is forgotten
        blocks_max=50_000_000,
        timeout_ms=1000,  # what a router may lose to a slow server; 20 to 100 where it has better to do
        write_timeout_ms=2000,
    )


if __name__ == "__main__":
    chosen = settings(sys.argv[1] if len(sys.argv) > 1 else "valkey://127.0.0.1:6379")
    runpy.run_path(str(Path(__file__).with_name("redis_index.py")))["main"](chosen)
