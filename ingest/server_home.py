"""What atlases have in common whose index lies in a server, in whichever format."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.fleet.now import RemoteReaderStatus
from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.llmd_writer import LlmdWriter
from kvatlas.ingest.remote_writer import RemoteWriter
from kvatlas.ingest.writer_status import RemoteWriterStatus

Writer = TypeVar("Writer", bound=RemoteWriter | LlmdWriter)


class IndexStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an atlas stands to the server that its index is in."""

    writer: RemoteWriterStatus
    reader: RemoteReaderStatus
    failure: str | None
    """Why nothing is written any more; None: all is well. Begin the process anew."""


class ServerHome(Generic[Writer]):
    """The parts of an atlas that differ where its index is in a server. Ends with `close`."""

    def __init__(
        self, connection: RemoteConnection, mirror: FleetMirror, reads: RemoteAtlas, writer: Writer
    ) -> None:
        """All are this one's from now on; the writer has begun."""
        self._connection = connection
        self.mirror = mirror
        self.reads = reads
        self.writer = writer
        self.look = reads.look
        self.set_serving = reads.set_serving
        self.serving_pods = reads.serving_pods

    @property
    def serving_version(self) -> Hashable:
        """As `Atlas.serving_version`."""
        return self.reads.serving_version

    def status(self) -> IndexStatus:
        """How the index stands to its server."""
        failure = None if self.writer.failure is None else repr(self.writer.failure)
        return IndexStatus(writer=self.writer.status(), reader=self.reads.status(), failure=failure)

    def close(self) -> None:
        """Take away what it has written, where the server is reached, and let go of the connection. Twice is
        fine."""
        self.writer.stop()
        self.reads.close()
        self.mirror.close()
        self._connection.close()
