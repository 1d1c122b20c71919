"""The nodes that commands go to: one server, or those of a cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kvatlas.index.remote.connection.commands import Command, slot_of
from kvatlas.index.remote.connection.failures import ErrorReply, ServerError
from kvatlas.index.remote.connection.links.deadline import Deadline
from kvatlas.index.remote.connection.links.exchange import Exchange, Group
from kvatlas.index.remote.connection.links.node import Node
from kvatlas.index.remote.connection.routes.cluster_layout import ClusterLayout
from kvatlas.index.remote.connection.settings import RemoteSettings
from kvatlas.index.remote.connection.status import RemoteCounts
from kvatlas.index.remote.connection.url import Address, RemoteUrl

_REFRESH_S = 0.1
"""No layout is read again sooner."""
_NODES_MAX = 1024


class Routing:
    """Nodes by address, and in a cluster the layout, read again when a node fails or sends somebody on. Any
    thread."""

    def __init__(
        self, url: RemoteUrl, settings: RemoteSettings, counts: RemoteCounts, clock_s: Callable[[], float]
    ) -> None:
        self._url = url
        self._settings = settings
        self._counts = counts
        self._clock_s = clock_s
        self._nodes: dict[Address, Node] = {}
        self._layout: ClusterLayout | None = None
        self._is_closed = False
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._is_stale = True
        self._refreshed_s = 0.0
        for node in self._nodes.values():
            node.after_fork()

    @property
    def name(self) -> str:
        """For messages."""
        return str(self._url)

    @property
    def is_cluster(self) -> bool:
        return self._url.is_cluster

    def nodes(self) -> list[Node]:
        """All that are known."""
        with self._lock:
            return list(self._nodes.values())

    def masters(self, deadline: Deadline) -> list[Node]:
        """Those that hold keys. Raises ServerError where no node tells."""
        if not self._url.is_cluster:
            return [self.node(self._url.addresses[0])]
        self.refresh(deadline)
        assert self._layout is not None
        return [self.node(address) for address in self._layout.masters()]

    def node_for(self, command: Command) -> Node:
        """In a cluster: REQUIRES `refresh` before. Raises ServerError where nobody serves the slot."""
        if self._layout is None:
            return self.node(self._url.addresses[0])
        slot = 0 if command.key is None else slot_of(command.key)
        address = self._layout.address(slot)
        if address is None:
            self.suspect()
            raise ServerError(f"{self._url}: expected a node that serves slot {slot}, got none", "cluster")
        return self.node(address)

    def node(self, address: Address) -> Node:
        with self._lock:
            node = self._nodes.get(address)
            if node is None:
                if self._is_closed or len(self._nodes) >= _NODES_MAX:
                    got = "a closed one" if self._is_closed else f"{_NODES_MAX} nodes"
                    raise ServerError(f"{address}: expected an open connection, got {got}", "closed")
                node = Node(address, self._url, self._settings, self._counts, self._clock_s)
                self._nodes[address] = node
            return node

    def suspect(self) -> None:
        """The layout may be another: it is read again before the next request."""
        self._is_stale = True

    def moved(self, slot: int, address: Address) -> None:
        """As a node says."""
        if self._layout is not None:
            self._layout.move(slot, address)
        self.suspect()

    def refresh(self, deadline: Deadline) -> None:
        """Reads the layout where it is suspected and was not read just now. Raises ServerError where there is
        none."""
        if not self._url.is_cluster or not self._is_due():
            return
        if not self._refreshing.acquire(timeout=max(0.0, deadline.hard_until_s - time.monotonic())):
            raise ServerError(f"{self._url}: expected the cluster's layout in time, got none", "timeout")
        try:
            if self._is_due():
                self._read_layout(deadline)
        finally:
            self._refreshing.release()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            nodes = list(self._nodes.values())
        for node in nodes:
            node.close()

    def _is_due(self) -> bool:
        is_recent = time.monotonic() - self._refreshed_s < _REFRESH_S
        return self._layout is None or (self._is_stale and not is_recent)

    def _read_layout(self, deadline: Deadline) -> None:
        """From the first node that tells; where none does, an old layout stays."""
        failure: ServerError | None = None
        known = [] if self._layout is None else self._layout.masters()
        addresses = list(dict.fromkeys((*known, *self._url.addresses)))
        for address in sorted(addresses, key=lambda address: self.node(address).is_failing):
            try:
                self._take_layout(ClusterLayout.of(self._ask_layout(address, deadline), address))
                return
            except ServerError as error:
                failure = failure or error
            if time.monotonic() > deadline.hard_until_s:
                break
        if self._layout is None:
            assert failure is not None
            raise failure
        self._refreshed_s = time.monotonic()

    def _ask_layout(self, address: Address, deadline: Deadline) -> object:
        group = Group(self.node(address))
        group.add(Command(None, (b"CLUSTER", b"SLOTS")))
        Exchange([group], deadline, self._counts, is_repeatable=True).run()
        answer = group.answers[0]
        if isinstance(answer, ErrorReply):
            raise ServerError(f"{address}: expected a node of a cluster, got {str(answer)[:200]}", "cluster")
        return answer

    def _take_layout(self, layout: ClusterLayout) -> None:
        masters = set(layout.masters())
        with self._lock:
            gone = [address for address in self._nodes if address not in masters]
            nodes = [self._nodes.pop(address) for address in gone]
            self._layout, self._is_stale, self._refreshed_s = layout, False, time.monotonic()
        self._counts.refreshes += 1
        for node in nodes:
            node.retire()
