"""Joins a cluster on Ray as a guest that writes into its index."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

import ray

from kvatlas.actors.guest.cluster_index import ClusterIndex
from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import GUEST, SubscriberAsks, SubscriberOrders
from kvatlas.actors.subscriber.actor import RayDesk
from kvatlas.actors.subscriber.attendance import Attendance
from kvatlas.actors.subscriber.settings import SubscriberSettings
from kvatlas.index.errors import ClusterError, InputError, quoted

_LEAVE_S_MAX = 5.0
_NAME_MAX = 200
_TAKEN = ("dump", "followed", "follower")
"""Sessions and actors of loaded dumps: kvatlas.cluster.moving, kvatlas.cluster.standby."""


class JoinedIndex(ClusterIndex):
    """A `ClusterIndex` with a session of its own: what it has told is gone when it is closed."""

    def __init__(
        self, service: GuestService, links: Links, attendance: Attendance[GuestService], timeout_s: float
    ) -> None:
        """What `join` has made; it is this one's from now on."""
        node_id = ray.get_runtime_context().get_node_id()
        super().__init__(service, links.open, node_id=node_id, timeout_s=timeout_s)
        self._guest, self._links, self._attendance = service, links, attendance

    def close(self) -> None:
        """End the session, and let go of the shards. Twice is fine."""
        self._guest.leave()
        self._guest.wait_stopped(_LEAVE_S_MAX)  # it is dismissed by the answer to its next report
        self._attendance.end()
        super().close()
        self._links.close()


def check_name(name: str) -> None:
    """Raises InputError for a name that no guest may have."""
    if name in _TAKEN or len(name) > _NAME_MAX or not name.isprintable():
        raise InputError(
            f"name: expected at most {_NAME_MAX} printable characters, none of {', '.join(_TAKEN)}, "
            f"got {quoted(name, _NAME_MAX)}"
        )


def join(
    cluster: str, name: str = "", *, settings: SubscriberSettings | None = None, timeout_s: float = 20.0
) -> JoinedIndex:
    """An index over a cluster on Ray, to which this process must be connected.

    `name`: of the session; another one of this name is superseded. Raises InputError for one that cannot be
    told or is taken, ClusterError when there is no session, or no view of the shards, in time.
    """
    check_name(name)
    settings = settings or SubscriberSettings()
    made: list[tuple[GuestService, Links]] = []
    has_view = threading.Event()
    name = GUEST + (name or secrets.token_hex(6))

    def make(orders: SubscriberOrders, part_changed: Callable[[], object]) -> GuestService:
        links = Links(orders.keys if settings.transport == "zmq" else None, settings.link)
        service = GuestService(
            name,
            orders,
            open_link=links.open,
            settings=settings.outbox,
            lane_rest_s=settings.lane_rest_s,
            part_changed=part_changed,
        )
        service.tell_views(lambda _view: has_view.set())
        made.append((service, links))
        return service

    asks = SubscriberAsks(name=name, node_id=ray.get_runtime_context().get_node_id(), actor="")
    attendance = Attendance(asks, settings, RayDesk(cluster, settings.call_s_max), make)
    threading.Thread(target=attendance.run, name="kvatlas-guest-attendance", daemon=True).start()
    if not has_view.wait(timeout_s):
        attendance.end()
        for _, links in made:
            links.close()
        raise ClusterError(
            f"cluster {cluster!r}: expected a view of its shards within {timeout_s:g} s, got none"
        )
    return JoinedIndex(*made[0], attendance, timeout_s)
