"""The Ray actor that keeps a loaded dump: a guest of the cluster, which feeds its shards."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

import msgspec
import ray

from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.link.links import Links
from kvatlas.actors.moving.incoming_dump import IncomingDump
from kvatlas.actors.moving.loaded_dump import LoadedDump
from kvatlas.actors.orders import SubscriberAsks, SubscriberOrders, decode, encode
from kvatlas.actors.subscriber.actor import RayDesk
from kvatlas.actors.subscriber.attendance import Attendance
from kvatlas.actors.subscriber.settings import SubscriberSettings
from kvatlas.index.errors import ClusterError, InputError
from kvatlas.index.view import FleetPart

_NUMBERS_S_MAX = 20.0
_DELIVERED_S_MAX = 60.0
_ENLISTED_S_MAX = 20.0
_REFRESH_S = 1.0
_KILLED_S_MAX = 10.0
_LOOK_S = 0.1

_log = logging.getLogger(__name__)


class LoadedParts(msgspec.Struct, frozen=True, kw_only=True):
    """What of a dump is no content."""

    parts: tuple[FleetPart, ...]
    created_s: float
    """When it was taken, seconds since 1970."""


class _DumpActor:
    """One guest's process. It enlists, reports and follows views in threads of its own."""

    def __init__(self, cluster: str, name: str, settings: bytes) -> None:
        """`name`: of its session, as `guest/dump`. `settings`: the bytes of `SubscriberSettings`."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        self._name = name
        self._settings = decode(settings, SubscriberSettings)
        self._incoming = IncomingDump()
        self._loaded: LoadedDump | None = None
        self._over = threading.Event()
        context = ray.get_runtime_context()
        asks = SubscriberAsks(name=name, node_id=context.get_node_id(), actor=context.get_actor_name() or "")
        desk = RayDesk(cluster, self._settings.call_s_max)
        self._attendance = Attendance(asks, self._settings, desk, self._make)
        threading.Thread(target=self._run, name="kvatlas-attendance", daemon=True).start()
        threading.Thread(target=self._age, name="kvatlas-age", daemon=True).start()

    @ray.method
    def ping(self) -> int:
        """Its process id."""
        return os.getpid()

    @ray.method
    def begin(self) -> int:
        """As `IncomingDump.begin`. What is shown stays."""
        return self._incoming.begin()

    @ray.method
    def section(self, number: int, section: bytes) -> None:
        """As `IncomingDump.put`."""
        self._incoming.put(number, section)

    @ray.method
    def commit(self, number: int, told: bytes) -> bytes:
        """LoadedParts -> LoadedReport, when every shard has it all. Raises DumpError, or InputError
        where it gets no numbers for so many lanes, and shows what it has shown before; ClusterError where
        shards do not answer, who get it later."""
        sections = self._incoming.take(number)
        dump = decode(told, LoadedParts)
        service, loaded = self._ready()
        self._load(loaded, dump, sections)
        service.wait_delivered(_DELIVERED_S_MAX)
        return encode(loaded.report())

    @ray.method
    def abandon(self, number: int) -> bool:
        """No more of it comes. Who shows nothing ends; whether it does."""
        return self._incoming.abandon(number) and self._leave_empty()

    @ray.method
    def report(self) -> bytes:
        """LoadedReport."""
        return encode(self._ready()[1].report())

    @ray.method
    def drop(self) -> None:
        """Give up all; the actor ends."""
        self._ready()[0].leave()

    def _leave_empty(self) -> bool:
        """End where nothing is shown."""
        service, loaded = self._ready()
        if loaded.report().created_s:
            return False
        service.leave()
        return True

    def _ready(self) -> tuple[GuestService, LoadedDump]:
        """When it has a session. Raises ClusterError when it gets none in time."""
        for _ in range(int(_ENLISTED_S_MAX / _LOOK_S)):
            service, loaded = self._attendance.service, self._loaded
            if service is not None and loaded is not None:
                return service, loaded
            self._over.wait(_LOOK_S)
        raise ClusterError(f"{self._name}: expected a session within {_ENLISTED_S_MAX:g} s, got none")

    def _load(self, loaded: LoadedDump, dump: LoadedParts, sections: list[bytes]) -> None:
        """Lanes come by and by: the directory lends more with each report, when few are left."""
        until_s = time.monotonic() + _NUMBERS_S_MAX
        missing = loaded.reserve(dump.parts)
        while missing:
            if time.monotonic() > until_s:
                loaded.release()
                raise InputError(
                    f"dump: expected numbers for all its lanes and workers, {missing} are missing and none "
                    f"has come for {_NUMBERS_S_MAX:g} s"
                )
            self._over.wait(_LOOK_S)
            before, missing = missing, loaded.reserve(dump.parts)
            if missing < before:
                until_s = time.monotonic() + _NUMBERS_S_MAX
        loaded.load(dump.parts, sections, dump.created_s)

    def _make(self, orders: SubscriberOrders, part_changed: Callable[[], object]) -> GuestService:
        settings = self._settings
        links = Links(orders.keys if settings.transport == "zmq" else None, settings.link)
        service = GuestService(
            self._name,
            orders,
            open_link=links.open,
            settings=settings.outbox,
            lane_rest_s=settings.lane_rest_s,
            part_changed=part_changed,
        )
        loaded = LoadedDump(service)
        service.tell_views(loaded.follow)
        self._loaded = loaded
        return service

    def _age(self) -> None:
        while not self._over.wait(_REFRESH_S):
            if self._loaded is not None:
                self._loaded.refresh()
            if self._incoming.expire():
                with contextlib.suppress(ClusterError):  # without a session it shows nothing
                    self._leave_empty()

    def _run(self) -> None:
        """Attend until the end; then the process goes. A new one would have no content: nobody begins it."""
        try:
            ending = self._attendance.run()
            _log.warning("%s ends: %s", self._name, ending.value)
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
            self._over.wait(_KILLED_S_MAX)  # an exit before Ray knows would be a crash
        except BaseException:
            _log.exception("%s ends", self._name)
        finally:
            os._exit(0)


DumpActor = ray.remote(_DumpActor)
