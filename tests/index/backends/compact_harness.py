"""An index in kvatlas's own format, on a real server."""

from __future__ import annotations

import itertools

from kvatlas.index.block_index import BlockIndex
from kvatlas.index.remote.compact.remote_index import RemoteIndex
from kvatlas.index.remote.connection.connection import RemoteConnection
from kvatlas.index.remote.connection.settings import RemoteSettings
from tests.index.backends.harness import Exact

_NAMESPACES = itertools.count()
PATIENT_MS = 30_000
"""A slow machine is not a fault."""


class CompactHarness(Exact):
    """Each index has a namespace of its own."""

    exports_instants = False

    def __init__(self, url: str, buckets: int = 0) -> None:
        self._url = url
        self.histories = 6 if "cluster" in url else 12
        self._buckets = buckets
        self._connections: list[RemoteConnection] = []

    def make(self) -> BlockIndex:
        settings = RemoteSettings(
            url=self._url,
            namespace=f"suite{next(_NAMESPACES)}",
            buckets=self._buckets,
            timeout_ms=PATIENT_MS,
            write_timeout_ms=PATIENT_MS,
            connect_timeout_ms=PATIENT_MS,
        )
        connection = RemoteConnection(settings)
        self._connections.append(connection)
        index = RemoteIndex(connection, settings)
        index.begin()
        return index

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
