"""The index on the server: found, or made where there is none."""

from __future__ import annotations

import secrets

from kvatlas.index.remote.compact.keyspace import FORMAT
from kvatlas.index.remote.compact.lane_map import PHYS_MAX, number_of
from kvatlas.index.remote.compact.server import Server, command
from kvatlas.index.remote.connection.commands import Argument


def open_index(server: Server) -> bytes:
    """Its id. Raises RemoteIndexError where it is of another format, or another number of buckets."""
    names = server.names
    version, n_buckets, index_id = server.tell([command(names.meta, "HMGET", "format", "buckets", "id")])[0]
    if index_id is not None:
        server.check_format(version, n_buckets)
    # Where all of it or its last writes were lost, the buckets know which numbers of lanes were in use.
    marks = server.tell([command(names.life(bucket), "HGET", "lanes") for bucket in range(names.n_buckets)])
    first = min(PHYS_MAX, max(map(number_of, marks)))
    args: list[Argument] = [FORMAT, names.n_buckets, secrets.token_hex(8), first]
    version, n_buckets, index_id = server.tell([server.scripts.open.command([names.meta], args)])[0]
    server.check_format(version, n_buckets)
    assert isinstance(index_id, bytes)
    return index_id


def join_buckets(server: Server) -> list[bytes]:
    """The ids of the buckets' lives, each begun where there is none."""
    names = server.names
    fresh = secrets.token_hex(8)
    lives = [server.scripts.join.command([names.life(bucket)], [fresh]) for bucket in range(names.n_buckets)]
    return server.tell(lives)
