"""What the routers of one process have in common: a fleet for those that choose from the same pods."""

from __future__ import annotations

import queue
import threading
import weakref
from typing import Any

from kvatlas.cluster.serve.fleets import ClusterFleet, EmbeddedFleet, Fleet
from kvatlas.cluster.serve.replicas.settings import ReplicaRouterConfig

_lock = threading.Lock()
_fleets: dict[tuple[str, str], tuple[Fleet, set[object]]] = {}
"""By deployment and settings: the fleet, and who uses it."""
_leaving: queue.SimpleQueue[Share] = queue.SimpleQueue()
_reapers: list[threading.Thread] = []
_routers: weakref.WeakSet[Any] = weakref.WeakSet()


class Share:
    """A router's part in a fleet; it ends with the router."""

    def __init__(self, key: tuple[str, str], fleet: Fleet) -> None:
        self.fleet = fleet
        self._key = key
        self.owner = object()

    def give_up(self) -> None:
        """The last one closes the fleet. Twice is fine."""
        self.fleet.leave(self.owner)
        with _lock:
            held = _fleets.get(self._key)
            if held is None or held[0] is not self.fleet:
                return
            held[1].discard(self.owner)
            if held[1]:
                return
            del _fleets[self._key]
        self.fleet.close()


def share(holder: object, deployment: str, config: ReplicaRouterConfig) -> Share:
    """The fleet of a deployment with these settings, made where nobody has it yet.

    It is given up when `holder` is gone.
    """
    key = (deployment, repr(config))
    with _lock:
        if key not in _fleets:
            _fleets[key] = (_make(config), set())
        fleet, owners = _fleets[key]
        mine = Share(key, fleet)
        owners.add(mine.owner)
        if len(_reapers) == 0:
            reaper = threading.Thread(target=_reap, name="kvatlas-serve-reaper", daemon=True)
            _reapers.append(reaper)
            reaper.start()
    # The collector may call it in any thread, also in one that holds a lock of ours: it only leaves word.
    weakref.finalize(holder, _leaving.put, mine).atexit = False
    return mine


def _reap() -> None:
    while True:
        _leaving.get().give_up()


def fleets_here() -> dict[str, Fleet]:
    """By deployment: for those who want receipts and statistics in a process that routes."""
    with _lock:
        return {deployment: fleet for (deployment, _), (fleet, _) in _fleets.items()}


def remember(router: Any) -> None:
    """For `routers_here`, as long as it lives."""
    with _lock:
        _routers.add(router)


def routers_here() -> list[Any]:
    """The routers of this process: `.statistics()` of each says what it has done."""
    with _lock:
        return list(_routers)


def _make(config: ReplicaRouterConfig) -> Fleet:
    if config.cluster:
        return ClusterFleet(config.cluster)
    return EmbeddedFleet(config.choosing, config.atlas, config.tokenize, config.subscriber)
