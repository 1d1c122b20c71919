"""Serve's replicas as pods: what each one advertises, or what is known of any replica."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from kvatlas.cluster.serve.replicas.advertising import Advertisement, read_advertisement
from kvatlas.index.errors import KvatlasError
from kvatlas.ingest.discovery.pods import DiscoveredPod

APP_LABEL = "serve_app"
DEPLOYMENT_LABEL = "serve_deployment"
ZONE_LABEL = "zone"

_log = logging.getLogger(__name__)


class ReplicaName(Protocol):
    """Serve's `ReplicaID`."""

    @property
    def unique_id(self) -> str: ...
    @property
    def deployment_id(self) -> Any: ...


class Replica(Protocol):
    """Of Serve's `RunningReplica`, what is looked at."""

    @property
    def replica_id(self) -> Any: ...
    @property
    def node_id(self) -> str: ...
    @property
    def availability_zone(self) -> str | None: ...
    @property
    def routing_stats(self) -> dict[str, Any]: ...


def pod_name(replica_id: ReplicaName) -> str:
    """APP#DEPLOYMENT#REPLICA: no two replicas of a Ray cluster have the same."""
    deployment = replica_id.deployment_id
    return f"{deployment.app_name}#{deployment.name}#{replica_id.unique_id}"


class ReplicaPods:
    """Makes pods of replicas. A replica that advertises nothing is a pod without events."""

    def __init__(self, app: str, deployment: str, model: str) -> None:
        self.labels = {APP_LABEL: app, DEPLOYMENT_LABEL: deployment}
        """Of all its pods; choices are filtered by them. An app without a name has no such label."""
        self.labels = {name: value for name, value in self.labels.items() if value}
        self.model = model or deployment
        """Of calls and replicas that name none."""
        self._configured = model
        self._complained: set[str] = set()
        self.refused = 0
        """Advertisements that could not be read, each counted once a replica."""

    def pods(self, replicas: Iterable[Replica]) -> dict[str, DiscoveredPod]:
        """By name."""
        found = [(pod_name(one.replica_id), one, self._read(one)) for one in replicas]
        self._complained &= {name for name, _, _ in found}
        self.model = model = self._configured or self._model_of(told for _, _, told in found)
        pods = {}
        for name, replica, told in found:
            try:
                pods[name] = self._pod(name, replica, told or Advertisement(), model)
            except KvatlasError as error:
                self._complain(name, error)
                pods[name] = self._pod(name, replica, Advertisement(), model)
        return pods

    def _pod(self, name: str, replica: Replica, told: Advertisement, model: str) -> DiscoveredPod:
        zone = {ZONE_LABEL: replica.availability_zone} if replica.availability_zone else {}
        labels = {**zone, **told.labels, **self.labels}
        return told.pod(name, node=replica.node_id or None, model=model, labels=labels)

    def _read(self, replica: Replica) -> Advertisement | None:
        try:
            return read_advertisement(replica.routing_stats or {}, _metadata(replica))
        except KvatlasError as error:
            self._complain(pod_name(replica.replica_id), error)
            return None

    def _model_of(self, told: Iterable[Advertisement | None]) -> str:
        """Of those that name none: the one that the others name."""
        named = {one.model or one.settings.model for one in told if one is not None} - {"", None}
        return str(named.pop()) if len(named) == 1 else self.model

    def _complain(self, name: str, error: KvatlasError) -> None:
        if name not in self._complained:
            self._complained.add(name)
            self.refused += 1
            _log.warning("replica %s is scored without its events: %s", name, error)


def _metadata(replica: Replica) -> Mapping[str, Any]:
    """Older releases of Ray have none."""
    return getattr(replica, "replica_metadata", None) or {}
