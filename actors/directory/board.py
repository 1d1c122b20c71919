"""What readers are shown: layouts with who is whole, and the parts that count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from kvatlas.actors.directory.guest_parts import beside_guests, beside_subscribers
from kvatlas.actors.directory.layouts import Generation, Layouts, Slot
from kvatlas.actors.directory.routers import Routers
from kvatlas.actors.directory.sessions import Session, Sessions
from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.directory.tokenizer_pool import TokenizerPool
from kvatlas.actors.orders import ClusterView, Layout, PartView, Replica, ToldPod, ToldServing, is_guest
from kvatlas.ingest.discovery.pods import DiscoveredPod


class Board:
    """Puts sessions and layouts together: who has loaded what, and the view of it. One thread at a time."""

    def __init__(
        self,
        settings: DirectorySettings,
        sessions: Sessions,
        layouts: Layouts,
        pool: TokenizerPool,
        routers: Routers,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._layouts = layouts
        self._pool = pool
        self._routers = routers
        self._pods: tuple[ToldPod, ...] = ()
        self.pods_version = 0
        """Version of the view since which pods serve as they do."""

    def serve(self, pods: Mapping[str, DiscoveredPod]) -> bool:
        """These are the pods; whether readers must be told. Who announces a store's files serves nobody."""
        serving = tuple(_told(pods[name]) for name in sorted(pods) if pods[name].announces is None)
        if serving == self._pods:
            return False
        self._pods = serving
        return True

    def view(self, version: int, since: int, orders: Mapping[str, int]) -> ClusterView:
        """With the parts that have changed since a version; with all where that one is not ours."""
        since = 0 if since > version else since
        building = self._layouts.building
        return ClusterView(
            version=version,
            cluster=self._settings.cluster,
            cluster_id=self._settings.cluster_id,
            serving=self.layout(self._layouts.serving),
            building=None if building is None else self.layout(building),
            leaving=tuple(map(self.layout, self._layouts.leaving)),
            sessions=self._sessions.numbers,
            lost=self._sessions.lost,
            parts=tuple(self._parts(since)),
            orders=dict(orders),
            tokenizers=self._pool.numbers,
            pods=self._pods if self.pods_version > since or since == 0 else None,
            routers=self._routers.listed,
        )

    def _parts(self, since: int) -> Iterator[PartView]:
        """Each worker in one part only: what a subscriber has heard of comes before what a guest says."""
        told = [(one, one.part) for one in self._sessions.used.values() if one.part is not None]
        fed = [part for one, part in told if not is_guest(one.subscriber)]
        guests = [part for one, part in told if is_guest(one.subscriber)]
        for one, part in told:
            if one.part_version > since:
                by_guest = is_guest(one.subscriber)
                shown = beside_subscribers(part, fed) if by_guest else beside_guests(part, guests)
                yield PartView(session=one.number, subscriber=one.subscriber, lost=one.lost, part=shown)

    def shown(self) -> tuple[object, ...]:
        """What of a view is not a part: differs when readers must be told."""
        layouts = tuple(map(self.layout, self._layouts.all))
        sessions = self._sessions
        is_built = self._layouts.building is None
        return (*layouts, is_built, sessions.numbers, sessions.lost, self._pool.numbers, self._routers.listed)

    def layout(self, generation: Generation) -> Layout:
        replicas = sorted(generation.replicas, key=lambda one: (one.shard, one.replica))
        return Layout(
            number=generation.number,
            n_shards=generation.shape.n_shards,
            replicas=tuple(
                msgspec.structs.replace(replica, whole=self.is_whole(generation, replica))
                for replica in replicas
            ),
        )

    def is_whole(self, generation: Generation, replica: Replica) -> bool:
        """Whether it has the content of every subscriber's session that readers use."""
        return all(
            self._holds(generation, replica, session)
            for session in self._sessions.used.values()
            if not is_guest(session.subscriber)
        )

    def is_filled(self, generation: Generation) -> bool:
        """Whether all its replicas are whole, and have what guests hold that are there."""
        guests = [guest for guest in self._sessions.guests if not guest.lost]
        return all(
            self.is_whole(generation, replica)
            and all(self._holds(generation, replica, guest) for guest in guests)
            for replica in generation.replicas
        )

    def has_loaded(self, session: Session) -> bool:
        """Whether the session's content lies in all replicas that readers use."""
        serving = self._layouts.serving
        return all(self._holds(serving, replica, session) for replica in serving.replicas)

    def _holds(self, generation: Generation, replica: Replica, session: Session) -> bool:
        """As either of the two says: their reports do not come at the same time."""
        if replica.incarnation in session.loaded:
            return True
        slot = Slot(generation.number, replica.shard, replica.replica)
        report = generation.holders[slot].report
        return report is not None and session.number in report.loaded


def _told(pod: DiscoveredPod) -> ToldPod:
    return ToldPod(
        pod=pod.pod,
        model=pod.model or "",
        serving=ToldServing(**msgspec.structs.asdict(pod.serving)),
        labels=pod.labels,
        node=pod.node or "",
    )
