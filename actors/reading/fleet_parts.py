"""Keeps what the directory tells readers: the newest view, and the part of every session."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import cast, get_args

from kvatlas.actors.orders import ClusterView, PartView, ReaderSecrets
from kvatlas.index.choosing.looking import all_serving
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.errors import ClusterError
from kvatlas.index.fleet_view import FleetView, degraded_part
from kvatlas.index.keys import Algorithm

_LOST = "its subscriber is gone: what it said last (until another has taken its place)"


_VERSIONS = itertools.count(1)


class FleetParts:
    """One view of a cluster, put together from answers that tell only what is new. One thread at a time."""

    def __init__(self) -> None:
        self.view: ClusterView | None = None
        self.fleet = FleetView.of([])
        self.serving: Mapping[str, ServingPod] = {}
        """Pods that requests can be sent to."""
        self.serving_version = next(_VERSIONS)
        """Another one, that no other reader has, when `serving` says something else."""
        self.subscribers: Mapping[str, str] = {}
        """By pod: who follows it."""
        self._told_serving: dict[str, ServingPod] = {}
        self._parts: dict[int, PartView] = {}
        self._absent: frozenset[int] = frozenset()
        """Sessions that had no part when all parts were told."""
        self._since = 0

    @property
    def since(self) -> int:
        """The version to ask from; 0 to be told all parts."""
        return self._since

    def take(self, view: ClusterView, since: int, secrets: ReaderSecrets) -> bool:
        """Take the answer to a question from version `since`; true when it changes anything."""
        old = self.view
        if since == 0:
            self._parts.clear()
        changed = (
            old is None
            or since == 0
            or bool(view.parts)
            or (view.sessions, view.lost) != (old.sessions, old.lost)
        )
        self._parts.update((part.session, part) for part in view.parts)
        self._parts = {n: part for n, part in self._parts.items() if n in set(view.sessions)}
        absent = frozenset(view.sessions) - self._parts.keys()
        if since == 0:
            self._absent = absent
        self._since = 0 if absent - self._absent or (since and view.version < since) else view.version
        self.view = view
        if changed:
            self.fleet = self._put_together(secrets, set(view.lost))
        if view.pods is not None:
            self._told_serving = {pod.pod: pod for pod in view.pods}
        if changed or view.pods is not None:
            changed |= self._put_serving_together()
        return changed or old is None or old.serving != view.serving

    def _put_together(self, secrets: ReaderSecrets, lost: set[int]) -> FleetView:
        """Later sessions after earlier ones: where two speak of the same, the later is believed."""
        told = [self._parts[number] for number in sorted(self._parts)]
        self.subscribers = {worker.pod: at.subscriber for at in told for worker in at.part.workers}
        parts = [degraded_part(at.part, _LOST) if at.lost or at.session in lost else at.part for at in told]
        return FleetView.of(
            parts, algorithm=algorithm_of(secrets), hash_seed=secrets.hash_seed, previous=self.fleet
        )

    def _put_serving_together(self) -> bool:
        serving = all_serving(self._told_serving, self.fleet.workers())
        if serving == self.serving:
            return False
        self.serving = serving
        self.serving_version = next(_VERSIONS)
        return True


def algorithm_of(secrets: ReaderSecrets) -> Algorithm:
    """Raises ClusterError for one of a newer release."""
    for algorithm in get_args(Algorithm):
        if algorithm == secrets.algorithm:
            return cast(Algorithm, algorithm)
    raise ClusterError(f"algorithm: expected one of {get_args(Algorithm)}, got {secrets.algorithm!r}")
