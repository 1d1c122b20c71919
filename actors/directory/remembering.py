"""What of the directory outlives its process: the committed layout, sessions and leases, pods, secrets."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import TypeVar

import msgspec
import zmq

from kvatlas.actors.directory.assignments import Assignments
from kvatlas.actors.directory.keeping import Keeper
from kvatlas.actors.directory.layouts import Generation, Shape, Slot
from kvatlas.actors.directory.lending import Lent
from kvatlas.actors.directory.sessions import Sessions
from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.orders import Lease, LinkKeys, ReaderSecrets
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod

_log = logging.getLogger(__name__)


class KeptSession(msgspec.Struct, frozen=True, kw_only=True):
    """One session, and the numbers it may use."""

    number: int
    subscriber: str
    is_used: bool
    lanes: tuple[Lease, ...] = ()
    workers: tuple[Lease, ...] = ()


class KeptState(msgspec.Struct, frozen=True, kw_only=True):
    """Written before anybody is told of it, so that a directory that is lost comes back to it."""

    cluster_id: str
    """Of one `start`, as everything here."""
    layout: int
    """The committed one."""
    shape: Shape
    slots: tuple[tuple[int, int, str], ...]
    """Shard, replica and node of each of its slots."""
    wanted: Shape
    """What the cluster was told to become."""
    sessions: tuple[KeptSession, ...] = ()
    retired: tuple[int, ...] = ()
    resting_lanes: tuple[Lease, ...] = ()
    resting_workers: tuple[Lease, ...] = ()


class KeptSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """Made once per cluster."""

    cluster_id: str
    hash_seed: str
    keys: LinkKeys

    def __repr__(self) -> str:
        return "KeptSecrets(...)"


class KeptPods(msgspec.Struct, frozen=True, kw_only=True):
    """Who follows which pods."""

    cluster_id: str
    next_number: int
    """Of the next subscriber."""
    subscribers: dict[str, str]
    """By pod."""
    pods: tuple[bytes, ...]
    """As they were found, until discovery finds them again."""


Kept = TypeVar("Kept", KeptState, KeptSecrets, KeptPods)


class Memory:
    """Reads and writes these through a keeper; what another `start` has written counts as none."""

    def __init__(self, keeper: Keeper, cluster_id: str) -> None:
        self._keeper = keeper
        self._cluster_id = cluster_id

    def state(self) -> KeptState | None:
        return self._get("state", KeptState)

    def keep_state(self, generation: Generation, wanted: Shape, sessions: Sessions, leases: Lent) -> None:
        """`generation`: the layout that serves, or will as soon as this returns."""
        kept = KeptState(
            cluster_id=self._cluster_id,
            layout=generation.number,
            shape=generation.shape,
            slots=tuple((slot.shard, slot.replica, node) for slot, node in generation.slots.items()),
            wanted=wanted,
            sessions=tuple(
                KeptSession(
                    number=one.number,
                    subscriber=one.subscriber,
                    is_used=sessions.used.get(one.subscriber) is one,
                    lanes=leases.lanes.of(one.number),
                    workers=leases.workers.of(one.number),
                )
                for one in sessions.all
            ),
            retired=tuple(sessions.retired),
            resting_lanes=leases.lanes.resting,
            resting_workers=leases.workers.resting,
        )
        self._keeper.put("state", msgspec.msgpack.encode(kept))

    def secrets(self, hash_seed: str | None) -> KeptSecrets:
        """Those of this cluster, made when first asked for."""
        kept = self._get("secrets", KeptSecrets)
        if kept is None:
            kept = make_secrets(self._cluster_id, hash_seed)
            self._keeper.put("secrets", msgspec.msgpack.encode(kept))
        return kept

    def pods(self) -> KeptPods | None:
        return self._get("pods", KeptPods)

    def keep_pods(self, assignments: Assignments, pods: Mapping[str, DiscoveredPod]) -> None:
        kept = KeptPods(
            cluster_id=self._cluster_id,
            next_number=assignments.next_number,
            subscribers=assignments.subscriber_of,
            pods=tuple(map(encode_pod, pods.values())),
        )
        self._keeper.put("pods", msgspec.msgpack.encode(kept))

    def _get(self, key: str, kind: type[Kept]) -> Kept | None:
        data = self._keeper.get(key)
        if data is None:
            return None
        try:
            kept = msgspec.msgpack.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Of a release that kept it otherwise: numbers go on, the rest is told anew.
            _log.warning("what was kept as %r cannot be read, and counts as none: %s", key, error)
            return None
        return kept if kept.cluster_id == self._cluster_id else None


def restored(kept: KeptState, sessions: Sessions, lent: Lent, now_s: float) -> Generation:
    """The committed layout; sessions and their numbers go on as they were."""
    for session in sorted(kept.sessions, key=lambda one: not one.is_used):
        sessions.restore(session.number, session.subscriber, is_used=session.is_used)
    sessions.retired.extend(kept.retired)
    lent.lanes.restore({one.number: one.lanes for one in kept.sessions}, kept.resting_lanes)
    lent.workers.restore({one.number: one.workers for one in kept.sessions}, kept.resting_workers)
    slots = {Slot(kept.layout, shard, replica): node for shard, replica, node in kept.slots}
    return Generation(kept.layout, kept.shape, slots, began_s=now_s)


def secrets_of_readers(settings: DirectorySettings, kept: KeptSecrets) -> ReaderSecrets:
    """What whoever reads is told, by Ray."""
    return ReaderSecrets(
        cluster_id=settings.cluster_id,
        hash_seed=kept.hash_seed,
        algorithm=settings.algorithm,
        tier_weights=settings.tier_weights,
        keys=msgspec.structs.replace(kept.keys, server_secret=""),
        view_s_max=settings.view_s_max,
        tokenizer=settings.tokenizer,
        choosing=settings.choosing,
        shares_loads=settings.shares_loads,
    )


def make_secrets(cluster_id: str, hash_seed: str | None) -> KeptSecrets:
    """Keys of a new cluster, and the seed of its block keys, random unless given."""
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    return KeptSecrets(
        cluster_id=cluster_id,
        hash_seed=secrets.token_hex(16) if hash_seed is None else hash_seed,
        keys=LinkKeys(
            server_public=server_public.decode(),
            server_secret=server_secret.decode(),
            client_public=client_public.decode(),
            client_secret=client_secret.decode(),
        ),
    )
