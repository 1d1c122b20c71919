"""What an atlas keeps per worker: its mirror, its lanes, its stream and its truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kvatlas.index._native import Keyspace
from kvatlas.index.groups import Group
from kvatlas.ingest._native import Mirror, Store
from kvatlas.ingest.announcers import announced_store
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.outlet import Outlet
from kvatlas.ingest.stream.agreement import Agreement, AgreementLimits
from kvatlas.ingest.stream.claims import ClaimsWatch
from kvatlas.ingest.stream.lag import Lag
from kvatlas.ingest.stream.limits import StreamLimits
from kvatlas.ingest.stream.stream import Stream
from kvatlas.ingest.stream.truth import State, Truth

if TYPE_CHECKING:
    from kvatlas.ingest.conversation import Conversation
    from kvatlas.ingest.feed import Feed


class StoreState:
    """A store of KV files with its lane."""

    def __init__(self, name: str, lane: int, blocks_max: int, known_max: int) -> None:
        self.name = name
        self.lane = lane
        self.native = Store(lane, blocks_max, known_max)


class GroupState(NamedTuple):
    """A KV-cache group of a worker, as its events tell it."""

    lane: int
    kind: str | None = None
    """Of attention, as the server spells it; None: full."""
    window_tokens: int = 0
    block_size_tokens: int = 0
    """Of the engine; 0: not known."""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is made with."""

    outlet: Outlet
    apply: Callable[[WorkerState, bytes], float | None]
    """Decodes and applies a payload; returns its time. Raises InputError when it cannot."""
    clock_s: Callable[[], float]
    limits: StreamLimits
    agreement: AgreementLimits
    changed: Callable[[State, State], None]
    """Told of every change of a worker's state."""
    noted: Callable[[], None]
    """Called when a doubt of a worker comes or goes, or when it consists of something else."""


class WorkerState:
    """One worker. It is its stream's sink. Changed by one thread at a time."""

    def __init__(
        self, pod: str, rank: int, model: str, number: int, config: PodConfig, feed: Feed, setup: WorkerSetup
    ) -> None:
        self.pod = pod
        self.rank = rank
        self.model = model
        self.number = number
        self.config = config
        self.announces = announced_store(pod, config)
        """The store whose files it announces, "" for its model's own; None: it is a worker."""
        self.feed = feed
        """Where its batches come from."""
        self.conversation: Conversation | None = None
        """With its replay socket."""
        self.mirror: Mirror | None = None
        """None while the model's block size is not known."""
        self.keyspace: Keyspace | None = None
        self.learns_block_size = False
        """From its batches, since nobody has configured it."""
        self.groups: dict[int, GroupState] = {}
        self.unseen_groups = 0
        """Bits of those that the engine has not named since it restarted: it may have others now."""
        self.full_groups = 0
        """Bits of those of full attention, less draft ones, that the engine has named."""
        self.stores: dict[str, StoreState] = {}
        self.told: tuple[list[Group], list[int], PodConfig] = ([], [], config)
        """Groups, lanes of stores and settings that the outlet was told of last."""
        self.removed = False
        self.batches = 0
        """Applied."""
        self.last_event_ts: float | None = None
        self.lag = Lag()
        self.agreement = Agreement(setup.agreement)
        self.truth = Truth(f"{pod} rank {rank} of {model}", setup.clock_s(), setup.changed, setup.noted)
        self.claims = ClaimsWatch(self.truth, config)
        self._setup = setup
        self._claims_seen = 0
        self.stream = Stream(
            self,
            self.truth,
            setup.limits,
            has_replay=feed.has_replay(pod, rank),
            now_s=setup.clock_s(),
        )

    # What its stream calls.

    def apply(self, payload: bytes) -> float | None:
        return self._setup.apply(self, payload)

    def restart(self) -> None:
        self.unseen_groups = sum(1 << number for number in self.groups)
        self.tell([])
        self._empty()
        self.judge_block_sizes()
        self.lag.restart()
        self.agreement.forget()

    def lost(self) -> None:
        if self.mirror is not None:
            self.mirror.doubt()
        self.observe()

    # What its fleet calls.

    def empty(self, keyspace: Keyspace, *, is_first: bool) -> None:
        """Forget all that it holds, and go on in this keyspace; `is_first`: before its first batch."""
        self.keyspace = keyspace
        self._empty()
        if not is_first:
            self.stream.forgotten(self._setup.clock_s())
        if not is_first or self.truth.stands("missed"):
            self.lost()

    def _empty(self) -> None:
        if self.mirror is not None and self.keyspace is not None:
            self.mirror.restart(self.keyspace)
            self._setup.outlet.apply(self.mirror.take())
        self.observe()

    def tell(self, groups: list[Group]) -> None:
        """Tell the outlet what the worker consists of now, where that is news."""
        told = groups, [store.lane for store in self.stores.values()], self.config
        if self.told != told:
            self.told = told
            self._setup.outlet.tell(self.number, *told)
            self._setup.noted()

    def observe_changes(self) -> None:
        """After every batch: bring the truth up to date, which most batches do not touch."""
        mirror = self.mirror
        has_changed = mirror is not None and mirror.claims_changed != self._claims_seen
        if has_changed or self.claims.waits_for_turnover:
            self.observe()

    def observe(self) -> None:
        """Bring the truth up to date with what the mirror knows of itself."""
        if self.mirror is not None:
            self._claims_seen = self.mirror.claims_changed
            self.claims.observe(self.mirror.claims(), self._setup.clock_s())
        else:
            self.truth.settle("lost", "unread")  # nothing is held

    def judge_block_sizes(self) -> None:
        """An engine key names a larger block in one group and its last part in another, and the mirror
        takes both for the larger one: where sizes differ, parts that are gone may seem to be held."""
        seen = (group for number, group in self.groups.items() if not self.unseen_groups >> number & 1)
        sizes = {group.block_size_tokens for group in seen} - {0}
        if len(sizes) > 1:
            self.truth.doubt("uneven", self._setup.clock_s(), ", ".join(map(str, sorted(sizes))))
        else:
            self.truth.settle("uneven")

    def compare_reuse(self, predicted_tokens: int, actual_tokens: int) -> None:
        """What a request was predicted to reuse, and what it has reused."""
        agreement, truth, now_s = self.agreement, self.truth, self._setup.clock_s()
        agreement.note(predicted_tokens, actual_tokens)
        stood = truth.stands("overpredicted") or truth.stands("underpredicted")
        for doubt, why in (
            ("overpredicted", agreement.overpredicted),
            ("underpredicted", agreement.underpredicted),
        ):
            if why:
                truth.doubt(doubt, now_s, why)
            else:
                truth.settle(doubt)
        if not stood and (agreement.overpredicted or agreement.underpredicted):
            self.stream.resync(now_s)
