"""The Ray actor of a subscriber: a process that holds one `SubscriberService`."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import ray

from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import (
    NAMESPACE,
    ReuseReport,
    SubscriberAsks,
    SubscriberOrders,
    decode,
    encode,
)
from kvatlas.actors.subscriber.attendance import Attendance, UnreachableError
from kvatlas.actors.subscriber.holding import HoldAsks, HoldReport
from kvatlas.actors.subscriber.service import SubscriberService
from kvatlas.actors.subscriber.settings import SubscriberSettings

_KILLED_S_MAX = 10.0

_log = logging.getLogger(__name__)


class RayDesk:
    """The directory of a cluster, looked up by its name, again after each failure. Any thread may call it."""

    def __init__(self, cluster: str, call_s_max: float) -> None:
        self._name = f"{cluster}/directory"
        self._call_s_max = call_s_max
        self._handle: Any = None

    @property
    def is_gone(self) -> bool:
        try:
            ray.get_actor(self._name, namespace=NAMESPACE)
        except ValueError:
            return True
        except Exception:  # Ray itself does not answer: nothing is known
            return False
        return False

    def enlist(self, asks: bytes) -> bytes:
        return self._call("enlist_subscriber", 0.0, asks)

    def report(self, report: bytes) -> bytes:
        return self._call("report_subscriber", 0.0, report)

    def view(self, since: int, wait_s: float) -> bytes:
        return self._call("view", wait_s, since, wait_s)

    def layouts(self, since: int, wait_s: float) -> bytes:
        return self._call("layouts", wait_s, since, wait_s)

    def _call(self, method: str, extra_s: float, *arguments: object) -> bytes:
        try:
            handle = self._handle
            if handle is None:
                handle = self._handle = ray.get_actor(self._name, namespace=NAMESPACE)
            answer = getattr(handle, method).remote(*arguments)
            told: bytes = ray.get(answer, timeout=self._call_s_max + extra_s)
        except Exception as error:  # of Ray, which has many kinds
            self._handle = None
            said = str(error).strip().partition("\n")[0]
            raise UnreachableError(f"{self._name}.{method}: {type(error).__name__}: {said}") from error
        return told


class _SubscriberActor:
    """One subscriber's process. Everything happens in its own threads; calls only ask."""

    def __init__(self, cluster: str, name: str, settings: bytes) -> None:
        """`settings`: the bytes of `SubscriberSettings`."""
        self._name = name
        self._settings = decode(settings, SubscriberSettings)
        context = ray.get_runtime_context()
        asks = SubscriberAsks(name=name, node_id=context.get_node_id(), actor=context.get_actor_name() or "")
        desk = RayDesk(cluster, self._settings.call_s_max)
        self._attendance = Attendance(asks, self._settings, desk, self._make)
        threading.Thread(target=self._run, name="kvatlas-attendance", daemon=True).start()

    @ray.method
    def ping(self) -> int:
        """Its process id."""
        return os.getpid()

    @ray.method
    def report_now(self) -> None:
        """The directory has other orders for it."""
        self._attendance.report_now()

    @ray.method
    def statistics(self) -> bytes:
        """msgpack of `ServiceStatistics`; empty before it has enlisted."""
        service = self._attendance.service
        return msgspec.msgpack.encode(service.statistics()) if service is not None else b""

    @ray.method
    def save(self) -> bool:
        """Write a checkpoint now."""
        service = self._attendance.service
        return service is not None and service.save()

    @ray.method
    def reused(self, report: bytes) -> None:
        """ReuseReport: what workers have reused, as routers have seen it."""
        service = self._attendance.service
        if service is not None:
            service.reused(decode(report, ReuseReport))

    @ray.method
    def hold(self, asks: bytes) -> bytes:
        """HoldAsks -> HoldReport. Raises InputError when another hold stands."""
        service = self._attendance.service
        if service is None:
            return encode(HoldReport(waits_for="its first orders"))
        return encode(service.hold(decode(asks, HoldAsks)))

    @ray.method
    def release(self, token: int) -> bool:
        """End a hold; whether it stood until now."""
        service = self._attendance.service
        return service is not None and service.release(token)

    def _make(self, orders: SubscriberOrders, part_changed: Callable[[], object]) -> SubscriberService:
        keys = orders.keys if self._settings.transport == "zmq" else None
        links = Links(keys, self._settings.link)
        return SubscriberService(
            self._name, orders, self._settings, open_link=links.open, part_changed=part_changed
        )

    def _run(self) -> None:
        """Attend until the end; then the process goes, for good or to be started again by Ray."""
        is_for_good = False
        try:
            ending = self._attendance.run()
            _log.warning("subscriber %s ends: %s", self._name, ending.value)
            is_for_good = ending.is_for_good
            if is_for_good:
                ray.kill(ray.get_runtime_context().current_actor, no_restart=True)
                threading.Event().wait(_KILLED_S_MAX)  # an exit before Ray knows would be a crash
        except BaseException:
            _log.exception("subscriber %s ends", self._name)
        finally:
            os._exit(0 if is_for_good else 1)


SubscriberActor = ray.remote(_SubscriberActor)
