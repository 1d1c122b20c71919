"""Incarnations of subscribers: which one's part readers use, which one is to take its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kvatlas.actors.orders import SubscriberReport, is_guest
from kvatlas.index.view import FleetPart

_RETIRED_MAX = 1024
_GUESTS_MAX = 64
_GUEST_GONE_S = 60.0
"""A guest that is silent for so long is over: nobody begins it again."""


@dataclass
class Session:
    """One incarnation of one subscriber."""

    number: int
    subscriber: str
    node_id: str
    began_s: float
    heard_s: float
    """When its process last spoke."""
    lost: bool = False
    """Silent, or its subscriber has a newer session: its part says what was true before."""
    settled: bool = False
    part: FleetPart | None = None
    """None: not told since this directory began."""
    part_version: int = 0
    """Version of the view in which its part or its loss last changed."""
    loaded: frozenset[int] = frozenset()
    """Incarnations of replicas that have its content."""
    report: SubscriberReport | None = field(default=None, repr=False)
    has_news: bool = True
    """Its last report was not as the one before, in what readers are shown."""
    is_restored: bool = False
    """It has spoken to an earlier life of the directory."""

    @property
    def is_mute(self) -> bool:
        """It has said nothing that could stand until another takes its place."""
        return self.part is None and not self.is_restored


class Sessions:
    """At most two sessions a subscriber: one that readers use, and one that comes to replace it.

    A subscriber that was restarted gets a new session. The old one's part stays, as lost, until the
    new one has settled and its content lies in all replicas that readers use; then they change places
    in one step, and the old one is retired. One thread at a time.
    Invariants: a number is issued once; a retired session never comes back; readers use exactly one
    session of each subscriber that has enlisted and was not dropped.
    """

    def __init__(
        self, *, issue: Callable[[], int], lost_s: float, swap_s_max: float, clock_s: Callable[[], float]
    ) -> None:
        """`issue` gives a number that was never given before. `lost_s`: silence after which a session is
        lost. `swap_s_max`: after so long a new session replaces a lost one, ready or not."""
        self._issue = issue
        self._lost_s = lost_s
        self._swap_s_max = swap_s_max
        self._clock_s = clock_s
        self.used: dict[str, Session] = {}
        """By subscriber: those whose parts readers use."""
        self.coming: dict[str, Session] = {}
        self.retired: deque[int] = deque(maxlen=_RETIRED_MAX)
        """The last ones, the newest last."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of those that readers use, in order."""
        return tuple(sorted(session.number for session in self.used.values()))

    @property
    def numbers_fed(self) -> tuple[int, ...]:
        """Of those, the ones of subscribers: without their content a shard is not whole."""
        return tuple(sorted(one.number for name, one in self.used.items() if not is_guest(name)))

    @property
    def guests(self) -> tuple[Session, ...]:
        """Those that readers use and no subscriber of the cluster feeds."""
        return tuple(one for name, one in self.used.items() if is_guest(name))

    @property
    def has_room(self) -> bool:
        """For one more guest."""
        return len(self.guests) < _GUESTS_MAX

    def guests_gone(self) -> list[str]:
        """Names of guests that have been silent for a minute."""
        before_s = self._clock_s() - _GUEST_GONE_S
        last_s: dict[str, float] = {}
        for one in filter(lambda one: is_guest(one.subscriber), self.all):
            last_s[one.subscriber] = max(one.heard_s, last_s.get(one.subscriber, 0.0))
        return [name for name, at_s in last_s.items() if at_s < before_s]

    @property
    def lost(self) -> tuple[int, ...]:
        """Of those, the ones that are lost."""
        return tuple(sorted(session.number for session in self.used.values() if session.lost))

    @property
    def block_sizes(self) -> dict[str, int]:
        """The smallest that any subscriber has heard, by model; tokens."""
        sizes: dict[str, int] = {}
        for session in self.all:
            for model, size in (session.part.block_sizes if session.part is not None else {}).items():
                if size > 0:
                    sizes[model] = min(size, sizes.get(model, size))
        return sizes

    @property
    def all(self) -> tuple[Session, ...]:
        return (*self.used.values(), *self.coming.values())

    def enlist(self, subscriber: str, node_id: str) -> tuple[Session, list[Session]]:
        """A new session of a subscriber, whose earlier process is gone; and those that are over with it."""
        now_s = self._clock_s()
        new = Session(self._issue(), subscriber, node_id, now_s, now_s)
        old = self.used.get(subscriber)
        if old is None or old.is_mute:
            over = self.drop(subscriber)
            self.used[subscriber] = new
            return new, over
        old.lost = True
        over = self._retire(self.coming.pop(subscriber, None))
        self.coming[subscriber] = new
        return new, over

    def restore(self, number: int, subscriber: str, *, is_used: bool) -> None:
        """A session of the directory's earlier life, not yet heard in this one. Used ones first."""
        now_s = self._clock_s()
        restored = Session(number, subscriber, "", now_s, now_s, is_restored=True)
        if is_used:
            self.used[subscriber] = restored
        else:
            self.coming[subscriber] = restored
            self.used[subscriber].lost = True

    def hear(self, report: SubscriberReport) -> Session | None:
        """Take in a report; None: of a session that is over, its process should end."""
        session = self.find(report.session)
        if session is None or session.subscriber != report.name:
            return None
        if session.subscriber in self.coming and self.used[session.subscriber] is session:
            return None  # a paused process that came back, after another had taken its place
        before = (session.lost, session.settled, session.loaded, session.part)
        session.heard_s = self._clock_s()
        session.lost = False
        session.settled = report.settled
        session.loaded = frozenset(report.loaded)
        session.part = report.part if report.part is not None else session.part
        session.has_news = before != (False, session.settled, session.loaded, session.part)
        session.report = report
        return session

    def find(self, number: int) -> Session | None:
        return next((session for session in self.all if session.number == number), None)

    def lose_silent(self) -> list[Session]:
        """Marks those that have been silent for too long; returns the newly lost ones."""
        deadline_s = self._clock_s() - self._lost_s
        newly = [one for one in self.all if not one.lost and one.heard_s < deadline_s]
        for session in newly:
            session.lost = True
        return newly

    def swap(self, has_loaded: Callable[[Session], bool]) -> list[tuple[Session, Session]]:
        """Puts sessions that are ready in the place of their predecessors; returns (old, new) of each.

        `has_loaded`: whether its content lies in all replicas that readers use.
        """
        now_s = self._clock_s()
        swapped = []
        for subscriber, new in list(self.coming.items()):
            ready = new.settled and not new.lost and new.part is not None and has_loaded(new)
            late = now_s - new.began_s > self._swap_s_max and new.part is not None
            if ready or late:
                old = self.used[subscriber]
                self.used[subscriber] = self.coming.pop(subscriber)
                self._retire(old)
                swapped.append((old, new))
        return swapped

    def drop(self, subscriber: str) -> list[Session]:
        """A subscriber that is not wanted any more; returns its sessions, which are over."""
        used, coming = self.used.pop(subscriber, None), self.coming.pop(subscriber, None)
        return [*self._retire(used), *self._retire(coming)]

    def _retire(self, session: Session | None) -> list[Session]:
        if session is None:
            return []
        self.retired.append(session.number)
        return [session]
