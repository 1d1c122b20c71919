"""Connections to pods: kept for a moment for the next request, made anew where there is none."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from kvatlas.cluster.config.proxy_config import ProxyLimits
from kvatlas.cluster.proxy.http.pod_connection import PodConnection
from kvatlas.index.errors import InputError, KvatlasError

_IDLE_MAX = 64
"""Connections kept for one pod."""
_AVOID_S_MAX = 60.0
_AVOIDED_MAX = 8192


class UnreachableError(KvatlasError):
    """A pod did not accept a connection."""


class Address(NamedTuple):
    """Where a pod's API is, from its URL."""

    host: str
    port: int
    is_tls: bool = False
    prefix: bytes = b""

    @property
    def authority(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises InputError for what is no http:// or https:// URL of a host."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(f"url: expected http://HOST:PORT, got {url[:200]!r}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"url: expected http://HOST:PORT, got {url[:200]!r}")
        is_tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").encode()
        return cls(parts.hostname, port or (443 if is_tls else 80), is_tls, prefix)


class PodConnections:
    """Connections of one event loop, at most one a request that is in flight and some that wait."""

    def __init__(self, limits: ProxyLimits, counts: Counter[str]) -> None:
        self._limits = limits
        self._counts = counts
        self._idle: dict[Address, list[PodConnection]] = {}
        self._idle_since_s: dict[PodConnection, float] = {}
        self._open: set[PodConnection] = set()
        self._address_of: dict[PodConnection, Address] = {}

    async def take(self, address: Address, *, is_fresh: bool = False) -> PodConnection:
        """A connection that nobody else uses. Raises UnreachableError when none can be made in time.

        `is_fresh`: none that was used before, which the pod may just be closing.
        """
        loop = asyncio.get_running_loop()
        idle = self._idle.get(address)
        while idle and not is_fresh:
            connection = idle.pop()
            if not idle:
                del self._idle[address]
            since_s = self._idle_since_s.pop(connection)
            if connection.is_reusable and loop.time() - since_s < self._limits.pod_idle_s_max:
                self._counts["reused_connections"] += 1
                return connection
            connection.abort()
        return await self._connect(loop, address)

    def give_back(self, connection: PodConnection) -> None:
        """It may be used again, where the pod allows it."""
        address = self._address_of.get(connection)
        if address is None or not connection.is_reusable:
            connection.abort()
            return
        idle = self._idle.setdefault(address, [])
        if len(idle) >= _IDLE_MAX:
            connection.abort()
            return
        idle.append(connection)
        self._idle_since_s[connection] = asyncio.get_running_loop().time()

    def expire(self, now_s: float) -> None:
        """Ends what is past its time; to be called about once a second."""
        for connection in [one for one in self._open if one.due_s <= now_s]:
            connection.expire()
        oldest_s = now_s - self._limits.pod_idle_s_max
        for connection in [one for one, since_s in self._idle_since_s.items() if since_s <= oldest_s]:
            connection.abort()

    def close(self) -> None:
        for connection in list(self._open):
            connection.abort()

    def __len__(self) -> int:
        return len(self._open)

    async def _connect(self, loop: asyncio.AbstractEventLoop, address: Address) -> PodConnection:
        limits = self._limits
        connection = PodConnection(limits.answer_s_max, limits.silence_s_max, self._forget)
        making = loop.create_connection(
            lambda: connection,
            address.host,
            address.port,
            ssl=ssl.create_default_context() if address.is_tls else None,
        )
        try:
            await asyncio.wait_for(making, limits.connect_s_max)
        except (OSError, ValueError, asyncio.TimeoutError, TimeoutError) as error:  # a host that is no name
            self._counts["refused_by_pods"] += 1
            why = str(error) or f"no connection within {limits.connect_s_max:g} s"
            raise UnreachableError(f"{address.host}:{address.port}: {why}") from error
        except asyncio.CancelledError:
            if connection.is_open:  # it came just then
                connection.abort()
            raise
        if not connection.is_open:
            raise UnreachableError(f"{address.host}:{address.port}: closed as soon as it was made")
        self._open.add(connection)
        self._address_of[connection] = address
        return connection

    def _forget(self, connection: PodConnection) -> None:
        self._open.discard(connection)
        address = self._address_of.pop(connection, None)
        if self._idle_since_s.pop(connection, None) is None or address is None:
            return
        idle = self._idle[address]
        idle.remove(connection)
        if not idle:
            del self._idle[address]


class AvoidedPods:
    """Pods that lately did not accept connections. Each is tried again after a while, by one request."""

    def __init__(self, avoid_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._avoid_s = avoid_s
        self._clock_s = clock_s
        self._until_s: OrderedDict[str, tuple[float, float]] = OrderedDict()  # and for how long

    def failed(self, pod: str) -> None:
        now_s = self._clock_s()
        _, lasted_s = self._until_s.pop(pod, (0.0, self._avoid_s / 2))
        lasts_s = min(2 * lasted_s, _AVOID_S_MAX)
        self._until_s[pod] = (now_s + lasts_s, lasts_s)
        if len(self._until_s) > _AVOIDED_MAX:
            self._until_s.popitem(last=False)

    def accepted(self, pod: str) -> None:
        if self._until_s:
            self._until_s.pop(pod, None)

    def now(self) -> frozenset[str]:
        """Those that are to be left out."""
        return frozenset(self._names()) if self._until_s else frozenset()

    def avoids(self, pod: str) -> bool:
        """Whether this one is to be left out; once its time is over, the first who asks may try it."""
        entry = self._until_s.get(pod)
        if entry is None:
            return False
        now_s = self._clock_s()
        if now_s < entry[0]:
            return True
        self._until_s[pod] = (now_s + entry[1], entry[1])
        return False

    def _names(self) -> Iterator[str]:
        now_s = self._clock_s()
        return (pod for pod, (until_s, _) in self._until_s.items() if now_s < until_s)
