"""What all parts of a remote index share: connection, names, scripts, bounds, counters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kvatlas.index.errors import RemoteIndexError
from kvatlas.index.remote.compact.keyspace import FORMAT, KeyNames
from kvatlas.index.remote.compact.sources import Scripts
from kvatlas.index.remote.connection.commands import Command
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.failures import raise_first
from kvatlas.index.remote.connection.settings import RemoteSettings


class RemoteCounts(msgspec.Struct):
    """Since this process began."""

    adds: int = 0
    """Blocks that nobody held before."""
    removes: int = 0
    """Blocks that nobody holds any more."""
    removes_missing: int = 0
    """Keys to remove that the lane did not hold."""
    foreign_values: int = 0
    """Values under our keys that are not ours, met by scripts or in answers: nobody holds these blocks."""
    foreign_lanes: int = 0
    """Entries of the lane map that are not ours."""
    lives_changed: int = 0
    """Buckets that had lost their content since this process saw them last."""
    lane_reads: int = 0
    """Times that the lane map was read."""
    matches_again: int = 0
    """Matches that asked again because the lane map had changed."""
    evicted_blocks: int = 0
    """Dropped by this process for blocks_max."""
    touches_dropped: int = 0
    """Segments in use that were not told, since too many were."""


class Server:
    """Any thread."""

    def __init__(self, connection: RemoteConnection, settings: RemoteSettings) -> None:
        self.connection = connection
        self.settings = settings
        self.names = KeyNames(settings.namespace, settings.n_buckets)
        self.scripts = Scripts(connection)
        self.counts = RemoteCounts()
        self.lifetime_ms = 1000 * settings.ttl_s
        self.where = f"{connection.url}, namespace {settings.namespace}"
        # Of each bucket, since blocks are spread evenly over them.
        self.bucket_blocks_max = -(-settings.blocks_max // settings.n_buckets)

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """One round trip, within the time that a question may take. Raises RemoteIndexError."""
        return raise_first(self.connection.run(commands, is_repeatable=True), self.where)

    def tell(self, commands: Sequence[Command]) -> list[Any]:
        """The same for changes. All of them may be executed twice."""
        timeout_s = self.settings.write_timeout_ms / 1000
        return raise_first(self.connection.run(commands, timeout_s=timeout_s, is_repeatable=True), self.where)

    def check_format(self, version: bytes | None, n_buckets: bytes | None) -> None:
        """Raises RemoteIndexError where the index on the server is not of this format and size."""
        expected = (FORMAT, b"%d" % self.names.n_buckets)
        if (version, n_buckets) != expected:
            raise RemoteIndexError(
                f"{self.where}: expected format {FORMAT.decode()} in {self.names.n_buckets} buckets, "
                f"as the settings say, got format {shown(version)} in {shown(n_buckets)}"
            )


def shown(number: bytes | None) -> str:
    """A number as the server tells it."""
    return "none" if number is None else ascii(number[:16].decode("utf-8", "backslashreplace"))


def command(key: bytes, *args: bytes | str | int) -> Command:
    """A plain command on one key: its name, the key, the rest."""
    return Command(key, (args[0], key, *args[1:]))
