"""How the keys of an index on a server are called. Source: docs/remote_format.md, keys."""

from __future__ import annotations

FORMAT = b"1"
"""Version of all that lies under these keys."""


class KeyNames:
    """The names, as bytes. What stands in braces decides the node of a cluster, so a bucket lies on one."""

    def __init__(self, namespace: str, n_buckets: int) -> None:
        self.namespace = namespace
        self.n_buckets = n_buckets
        fleet = f"{{{namespace}:fleet}}:".encode()
        self.meta = fleet + b"meta"
        self.lanes = fleet + b"lanes"
        self.version = fleet + b"version"
        self.sessions = fleet + b"sessions"
        self.dead = fleet + b"dead"
        self._prefixes = [f"{{{namespace}:{bucket}}}:".encode() for bucket in range(n_buckets)]

    def life(self, bucket: int) -> bytes:
        return self._prefixes[bucket] + b"life"

    def use(self, bucket: int) -> bytes:
        return self._prefixes[bucket] + b"use"

    def segments(self, bucket: int) -> bytes:
        """What the names of the bucket's segments begin with; their tag follows in 8 hexadecimal digits."""
        return self._prefixes[bucket] + b"s:"
