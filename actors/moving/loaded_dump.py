"""What a dump says, told to a cluster's shards by a guest, until a subscriber has heard it himself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kvatlas.actors.orders import ClusterView, is_guest
from kvatlas.index.view import FleetPart, is_heard, name_of
from kvatlas.ingest.shown_dump import ShownDump, Teller


class LoadedDump(ShownDump):
    """The content of the newest dump, in lanes of a guest's session. Any thread may call any method.

    Lanes given up rest before they are used again, as any.
    """

    def __init__(self, teller: Teller, *, wall_s: Callable[[], float] = time.time) -> None:
        """`teller`: a `GuestService`."""
        super().__init__(teller, wall_s=wall_s)
        self._following = threading.Lock()
        self._parts: dict[int, FleetPart] = {}

    def follow(self, view: ClusterView) -> None:
        """What subscribers have heard by now is theirs."""
        with self._following:
            self._parts.update((one.session, one.part) for one in view.parts if not is_guest(one.subscriber))
            self._parts = {number: part for number, part in self._parts.items() if number in view.sessions}
            workers = [worker for part in self._parts.values() for worker in part.workers]
            self.hear([name_of(worker) for worker in workers if is_heard(worker)])
