"""A process of its own that writes into an index server until it is killed: url, pod, lease in seconds."""

from __future__ import annotations

import sys
import threading

import msgspec

from tests.ingest.remote.shared_atlas import FIRST, QUICK, At, new_atlas


def main(url: str, pod: str, lease_s: str) -> None:
    sharing = msgspec.structs.replace(QUICK, lease_s=float(lease_s))
    atlas = new_atlas(At(url), sharing=sharing, name=pod)
    atlas.ingest(f"kv@{pod}@m".encode(), 0, FIRST)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
