"""The pods of an embedded atlas that requests can be sent to."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from typing import NamedTuple

from kvatlas.index.choosing.looking import all_serving
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.errors import InputError
from kvatlas.ingest.fleet_mirror import FleetMirror


class _Known(NamedTuple):
    version: Hashable
    pods: dict[str, ServingPod]


class AtlasServing:
    """What its owner says of pods, and what their events say of the others. Any thread may call it."""

    def __init__(self, mirror: FleetMirror) -> None:
        self._mirror = mirror
        self._lock = threading.Lock()
        self._told: dict[str, ServingPod] = {}
        self._changes = 0
        self._known = _Known(None, {})

    @property
    def version(self) -> Hashable:
        """Rises with what is told, and with what is heard."""
        return self._changes, self._mirror.part_version

    def set(self, pod: str, serving: ServingPod | None) -> None:
        """None: nobody says any more. Raises InputError where `serving` is of another pod."""
        if serving is not None and serving.pod != pod:
            raise InputError(f"serving.pod: expected {pod!r}, got {serving.pod!r}")
        with self._lock:
            told = dict(self._told)
            if serving is None:
                told.pop(pod, None)
            else:
                told[pod] = serving
            self._told = told
            self._changes += 1

    def pods(self) -> Mapping[str, ServingPod]:
        """All of them; put together again where something has changed."""
        known, version = self._known, self.version
        if known.version != version:
            heard = self._mirror.part().workers
            known = self._known = _Known(version, all_serving(self._told, heard))
        return known.pods
