"""The directory of a cluster, without Ray: who holds what, what counts, and what should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from kvatlas.actors.directory.assignments import Assignments, followed
from kvatlas.actors.directory.board import Board
from kvatlas.actors.directory.keeping import Counters, Keeper
from kvatlas.actors.directory.layouts import Holder, Layouts, Shape, Slot
from kvatlas.actors.directory.lending import Lent
from kvatlas.actors.directory.ordering import orders_of
from kvatlas.actors.directory.placement import Placement
from kvatlas.actors.directory.remembering import Memory, restored, secrets_of_readers
from kvatlas.actors.directory.resharding import Resharding
from kvatlas.actors.directory.routers import Routers
from kvatlas.actors.directory.sessions import Session, Sessions
from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.directory.tokenizer_pool import Member, TokenizerPool
from kvatlas.actors.orders import (
    ClusterView,
    ReaderSecrets,
    RouterOrders,
    RouterReport,
    ShardAsks,
    ShardOrders,
    ShardReport,
    SubscriberAsks,
    SubscriberOrders,
    SubscriberReport,
    TokenizerOrders,
    TokenizerReport,
    is_guest,
)
from kvatlas.ingest.discovery.pods import DiscoveredPod, decode_pod

_STALL_S = 1.0
_VERSIONS_KEPT = 4096
"""Views change often: so many versions are issued for each that is kept."""


class DirectoryService:
    """What all actors of one cluster are told, and what readers see.

    Actors enlist when their process begins, and report each second; what they are answered are their
    orders. What must outlive this process is kept before anybody is told of it. `tick` does what time
    does. One thread at a time; nothing here waits, but for the keeper.
    """

    def __init__(
        self,
        settings: DirectorySettings,
        keeper: Keeper,
        nodes: Mapping[str, str],
        clock_s: Callable[[], float],
    ) -> None:
        """`nodes`: addresses by Ray's ids. A directory that was lost goes on from what `keeper` has."""
        self.settings = settings
        self.placement = Placement(settings.shard_nodes, nodes)
        self.counts: Counter[str] = Counter()
        self.pods: dict[str, DiscoveredPod] = {}
        self._clock_s = clock_s
        self.began_s = self._ticked_s = clock_s()
        self._counters = Counters(keeper)
        self._memory = Memory(keeper, settings.cluster_id)
        self._secrets = self._memory.secrets(settings.hash_seed)
        self.lent = Lent(settings, self.counts, clock_s)
        self.sessions = Sessions(
            issue=lambda: self._counters.issue("session"),
            lost_s=settings.deadlines.session_lost_s,
            swap_s_max=settings.deadlines.swap_s_max,
            clock_s=clock_s,
        )
        kept = self._memory.state()
        self.is_restarted = kept is not None
        self.resharding = Resharding(
            Shape(settings.n_shards, settings.replicas_per_node) if kept is None else kept.wanted,
            self.placement,
            self.counts,
            issue_layout=lambda: self._counters.issue("layout"),
            clock_s=clock_s,
        )
        self.layouts = Layouts(
            self.resharding.new_layout()
            if kept is None
            else restored(kept, self.sessions, self.lent, clock_s()),
            issue_incarnation=lambda: self._counters.issue("incarnation"),
            leave_s=settings.deadlines.leave_s,
            clock_s=clock_s,
        )
        self.pool = TokenizerPool(settings, is_restarted=self.is_restarted, clock_s=clock_s)
        self.routers = Routers(settings.cluster_id, settings.deadlines.session_lost_s, clock_s)
        self.board = Board(settings, self.sessions, self.layouts, self.pool, self.routers)
        self.orders: dict[str, int] = {}
        """Version of each subscriber's orders, by name."""
        self.version = 0
        self.is_going = False
        """Everybody should end."""
        self._shown: tuple[object, ...] = ()
        self._change()
        self.assignments = self._restore_pods()
        self.board.pods_version = self.version  # readers of an earlier directory are told anew
        guests = filter(is_guest, {one.subscriber for one in self.sessions.all})
        self.orders.update(dict.fromkeys(guests, self.version))
        for name in {one.subscriber for one in self.sessions.all} - self.orders.keys():
            self.lent.end(self.sessions.drop(name))  # it was let go of just before
        self._remember()

    # What readers see.

    def view(self, since: int = 0) -> ClusterView:
        """The cluster as it is, with the parts that have changed since that version."""
        return self.board.view(self.version, since, self.orders)

    @property
    def is_warm(self) -> bool:
        """Whether a view would show all there is: a directory that was lost hears of it first."""
        if not self.is_restarted or self.age_s > self.settings.deadlines.warm_s_max:
            return True
        serving = self.layouts.serving
        parts = all(session.part is not None for session in self.sessions.used.values())
        return parts and len(serving.replicas) == len(serving.slots)

    @property
    def is_ready(self) -> bool:
        """Whether each shard that is served has a process that is up."""
        return self.is_warm and self.layouts.serving.is_served

    @property
    def age_s(self) -> float:
        return self._clock_s() - self.began_s

    def reader_secrets(self) -> ReaderSecrets:
        return secrets_of_readers(self.settings, self._secrets)

    # Shards.

    def enlist_shard(self, asks: ShardAsks) -> ShardOrders:
        """An incarnation for a process that is to hold a shard."""
        incarnation = None if self.is_going else self.layouts.enlist(asks)
        if incarnation is None:
            self.counts["shards_refused"] += 1
            return ShardOrders(goes=True)
        self.counts["shards_enlisted"] += 1
        self._settle()
        return self._shard_orders(incarnation)

    def report_shard(self, report: ShardReport) -> ShardOrders:
        """How a shard is, answered by its orders."""
        holder = self.layouts.hear(report)
        if holder is None or self.is_going:
            self.counts["shards_refused"] += 1
            # Of a slot that is wanted: superseded, and the actor of its name is another process.
            slot = Slot(report.layout, report.replica.shard, report.replica.replica)
            return ShardOrders(goes=self.is_going or self.layouts.find(slot) is None)
        if holder.has_news:
            self._settle()
        return self._shard_orders(holder.incarnation)

    def _shard_orders(self, incarnation: int) -> ShardOrders:
        return ShardOrders(
            incarnation=incarnation,
            retired=tuple(self.sessions.retired),
            sessions=self.sessions.numbers_fed,
            keys=self._secrets.keys,
        )

    # Subscribers, and guests.

    def enlist_subscriber(self, asks: SubscriberAsks) -> SubscriberOrders:
        """A session for a process that is to follow pods, or for a guest."""
        if is_guest(asks.name) and self.sessions.has_room and not self.is_going:
            self.orders.setdefault(asks.name, self.version)
        if asks.name not in self.orders or self.is_going:
            self.counts["subscribers_refused"] += 1
            return SubscriberOrders(goes=True)
        self.counts["subscribers_enlisted"] += 1
        session, retired = self.sessions.enlist(asks.name, asks.node_id)
        self.lent.end(retired)
        self.lent.begin(session)
        self._remember()
        self._mark(self.sessions.used[asks.name])  # it may be lost now
        self._settle()
        return self._subscriber_orders(session)

    def report_subscriber(self, report: SubscriberReport) -> SubscriberOrders:
        """How a subscriber is, answered by its orders."""
        known = self.sessions.find(report.session)
        before = (known.part, known.lost) if known is not None else None
        session = self.sessions.hear(report)
        if session is None or self.is_going:
            self.counts["subscribers_refused"] += 1
            return SubscriberOrders(goes=self.is_going or report.name not in self.orders)
        if report.leaves and is_guest(report.name):
            self._end_guest(report.name)
            return SubscriberOrders(goes=True)
        if (session.part, session.lost) != before:
            self._mark(session)
        if self.lent.add(session, report):
            self._remember()
        if session.has_news:
            self._settle()
        return self._subscriber_orders(session)

    def _end_guest(self, name: str) -> None:
        self.counts["guests_ended"] += 1
        self.orders.pop(name, None)
        self.lent.end(self.sessions.drop(name))
        self._remember()
        self._change()
        self._mark_beside(name)
        self._settle()

    def _subscriber_orders(self, session: Session) -> SubscriberOrders:
        pods, version = self.assignments.pods_of(session.subscriber), self.orders[session.subscriber]
        return orders_of(session, self._secrets, self.sessions.block_sizes, self.lent, pods, version)

    # Tokenizers.

    def report_tokenizer(self, report: TokenizerReport) -> TokenizerOrders:
        """How a tokenizer is, answered by its orders."""
        return TokenizerOrders(goes=self.is_going or not self.pool.hear(report))

    # Routers.

    def report_router(self, report: RouterReport) -> RouterOrders:
        """How a router is, answered by its orders."""
        takes = not self.is_going and self.routers.hear(report)
        self._settle()
        return RouterOrders(goes=not takes)

    # What people and discovery want.

    def set_pods(self, pods: Mapping[str, DiscoveredPod]) -> None:
        """All pods that should be followed now.

        A directory that was lost keeps, for a while, those that its discovery has not found again.
        """
        wanted = {**self.pods, **pods} if self.keeps_pods else dict(pods)
        if wanted == self.pods:
            return
        changed = self.assignments.update(followed(wanted), self.placement.names)
        self.pods = wanted
        self._memory.keep_pods(self.assignments, wanted)
        self._show_pods()
        if changed:
            self._order_anew(changed)

    def _show_pods(self) -> None:
        """Readers are told how pods serve, where that is not what they were told last."""
        if self.board.serve(self.pods):
            self._change()
            self.board.pods_version = self.version

    @property
    def keeps_pods(self) -> bool:
        """Whether pods from before a restart are kept, found or not."""
        return self.is_restarted and self.age_s < self.settings.deadlines.discovery_s

    def _order_anew(self, changed: set[str]) -> None:
        """These subscribers have other pods; those without any are not wanted any more."""
        self._change()
        for name in changed:
            if self.assignments.pods_of(name):
                self.orders[name] = self.version
            else:
                self.orders.pop(name, None)
                self.lent.end(self.sessions.drop(name))
        self._remember()
        self._settle()

    def scale(
        self,
        shards: int | None = None,
        replicas_per_node: int | None = None,
        off_nodes: tuple[str, ...] | None = None,
    ) -> None:
        """Other numbers of shards and replicas, or nodes that shards should leave; None: as wanted now.

        A layout is built beside the one that serves, and takes its place when it is filled.
        Raises InputError for numbers out of range.
        """
        self.resharding.want(shards, replicas_per_node, off_nodes)
        self._remember()
        self._settle()

    # What time does.

    def tick(self, nodes: Mapping[str, str]) -> None:
        """Notices who is silent, which nodes have come and gone, what is due. Several times a second."""
        self._pardon()
        if nodes and self.placement.see(nodes) and self.resharding.move_slots(self.layouts):
            self._remember()
        for session in self.sessions.lose_silent():
            self.counts["sessions_lost"] += 1
            self._mark(session)
        for name in self.sessions.guests_gone():
            self._end_guest(name)
        self.counts["shards_silent"] += self.layouts.drop_silent(self.settings.deadlines.session_lost_s)
        self.layouts.drop_left()
        self.pool.tick()
        self.routers.tick()
        self._settle()

    def _pardon(self) -> None:
        """What came while this process did not run is not the silence of others."""
        now_s = self._clock_s()
        stalled_s = now_s - self._ticked_s
        self._ticked_s = now_s
        if stalled_s > _STALL_S:
            self.counts["stalls"] += 1
            holders = [holder for one in self.layouts.all for holder in one.holders.values()]
            heard: list[Session | Holder | Member] = [*self.sessions.all, *holders, *self.pool.members]
            for one in heard:
                one.heard_s = min(now_s, one.heard_s + stalled_s)

    def _settle(self) -> None:
        """Whatever can be decided now is; readers are told of it."""
        self.resharding.build(self.layouts)
        building = self.layouts.building
        is_filled = building is not None and self.board.is_filled(building)
        if building is not None and self.layouts.can_commit(is_filled, self.settings.deadlines.reshard_s_max):
            self._memory.keep_state(building, self.resharding.wanted, self.sessions, self.lent)
            self.resharding.commit(self.layouts, is_filled=is_filled)
        for old, new in self.sessions.swap(self._has_loaded):
            self.counts["sessions_swapped"] += 1
            self._mark(new)
            self.lent.end([old])
            self._remember()
        shown = self.board.shown()
        if shown != self._shown:
            self._shown = shown
            self._change()

    def _has_loaded(self, session: Session) -> bool:
        """A directory that was lost may not have heard yet of replicas that readers use."""
        serving = self.layouts.serving
        knows_all = self.is_warm or len(serving.replicas) == len(serving.slots)
        return knows_all and self.board.has_loaded(session)

    def _mark(self, session: Session) -> None:
        """Its part, or what is said of it, is other than readers have it."""
        self._change()
        session.part_version = self.version
        self._mark_beside(session.subscriber)

    def _mark_beside(self, subscriber: str) -> None:
        """What readers are told of guests depends on what subscribers say, and the reverse."""
        guests = self.sessions.guests
        for one in self.sessions.used.values() if is_guest(subscriber) else guests:
            one.part_version = self.version

    def _change(self) -> None:
        self.version = self._counters.issue("view", _VERSIONS_KEPT)

    # What outlives the process.

    def _remember(self) -> None:
        self._memory.keep_state(self.layouts.serving, self.resharding.wanted, self.sessions, self.lent)

    def _restore_pods(self) -> Assignments:
        assignments = Assignments(
            self.settings.pods_each, self.settings.subscribers_max, near_pods=self.settings.near_pods
        )
        kept = self._memory.pods()
        if kept is not None:
            self.pods = {pod.pod: pod for pod in map(decode_pod, kept.pods)}
            assignments.restore(kept.next_number, kept.subscribers, followed(self.pods))
            self.orders = dict.fromkeys(kept.subscribers.values(), self.version)
            self.board.serve(self.pods)
        return assignments
