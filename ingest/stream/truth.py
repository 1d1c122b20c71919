"""What can be claimed of one worker's content in the index, and why not more.

Two claims, kept apart. *Sound*: the index holds nothing that the engine has dropped. *Complete*: it
holds all that the engine has. A *doubt* withdraws one of them, until what heals it has happened.

    EXACT     no doubt: sound and complete, confirmed since the last silence
    PARTIAL   sound, not complete
    DEGRADED  perhaps not sound
    BLIND     no events: nothing is known, or nothing has been heard for long

Thread safety: one thread changes a truth at a time; `state` may be read by any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

State = Literal["EXACT", "PARTIAL", "DEGRADED", "BLIND"]
STATES: tuple[State, ...] = ("EXACT", "PARTIAL", "DEGRADED", "BLIND")
"""Best first."""

_log = logging.getLogger(__name__)


class Doubt(msgspec.Struct, frozen=True):
    """A kind of doubt: what it makes of the worker, what it says, and what heals it."""

    name: str
    state: State
    """The worker is no better than this."""
    says: str
    heals: str


DOUBTS = {
    doubt.name: doubt
    for doubt in (
        # Nothing is known.
        Doubt("never_heard", "BLIND", "nothing has been heard of it", "its first batch, live or replayed"),
        Doubt("lost_contact", "BLIND", "no event and no answer for long", "an answer of the replay socket"),
        # Perhaps not sound.
        Doubt("disconnected", "DEGRADED", "the connection to its publisher is broken", "a reconnect"),
        Doubt("reconnected", "DEGRADED", "batches may be missing since a reconnect", "a replay"),
        Doubt(
            "joining", "DEGRADED", "its subscription may not stand yet", "an answer asked for a moment later"
        ),
        Doubt("silent", "DEGRADED", "silent, without a replay socket to ask for a tail", "its next batch"),
        Doubt("unconfirmed", "DEGRADED", "the replay socket does not answer as it should", "an answer"),
        Doubt("gap", "DEGRADED", "batches are missing, being asked for", "a replay"),
        Doubt("suspect", "DEGRADED", "a batch does not fit the ones before, being asked about", "a replay"),
        Doubt("replaying", "DEGRADED", "its batches are being replayed", "the end of the replay"),
        Doubt("contradicted", "DEGRADED", "live batches that no replay knows of", "a batch that fits"),
        Doubt("contested", "DEGRADED", "two publishers claim to be it", "one of them falling silent"),
        Doubt(
            "lost",
            "DEGRADED",
            "batches are lost for good: removals may be among them",
            "a clear, an engine restart, a whole replay, or turnover of what was held before",
        ),
        Doubt(
            "unread",
            "DEGRADED",
            "events could not be read: removals may be among them",
            "a clear, an engine restart, or turnover of what was held before",
        ),
        Doubt(
            "reported",
            "DEGRADED",
            "a report named blocks of a group that keeps only some: they may not be there",
            "a clear, an engine restart, or turnover of what was held before",
        ),
        Doubt(
            "unsalted",
            "DEGRADED",
            "its release does not say which blocks are salted or multimodal",
            "a newer release, or trust_absent_extras",
        ),
        Doubt(
            "uneven",
            "DEGRADED",
            "its cache groups have blocks of different sizes, which share names: some may be gone",
            "an engine whose groups have equal blocks",
        ),
        Doubt(
            "overpredicted",
            "DEGRADED",
            "it reused less than was predicted, again and again",
            "a whole replay, or predictions that come true",
        ),
        # Sound, not complete.
        Doubt(
            "missed",
            "PARTIAL",
            "batches from before are not known: a late join, a truncated replay, a loss",
            "a clear, an engine restart, a whole replay, or as many blocks known as it has",
        ),
        Doubt(
            "missed_offloaded",
            "PARTIAL",
            "what was offloaded before is not known",
            "an engine restart or a whole replay",
        ),
        Doubt(
            "underpredicted",
            "PARTIAL",
            "it reused more than was predicted, again and again",
            "a whole replay, or predictions that come true",
        ),
        Doubt("orphans", "PARTIAL", "stores wait for a parent that is not known", "their parent"),
        Doubt("maybe_gpu", "PARTIAL", "copies of unknown number: one may be left", "a store or a clear"),
        Doubt("maybe_cpu", "PARTIAL", "copies in CPU memory may be left after a clear", "seen again"),
        Doubt("unindexed", "PARTIAL", "holds blocks that have no block key", "their removal"),
        Doubt(
            "lost_blocks", "PARTIAL", "announced blocks could not be placed", "a clear or an engine restart"
        ),
        Doubt("lost_offloaded", "PARTIAL", "offloaded blocks could not be placed", "an engine restart"),
        Doubt(
            "lost_stored",
            "PARTIAL",
            "stored files found no room, or are parts of blocks",
            "an engine restart",
        ),
        Doubt("unlinked", "PARTIAL", "parts of blocks were forgotten and seen again", "turnover"),
    )
}
"""All kinds, by name."""

_LASTING = frozenset(
    ("lost", "unread", "missed", "missed_offloaded", "overpredicted", "underpredicted", "replaying")
)
"""Those that neither a new connection nor a look at the mirror can judge."""
_RANK = {state: rank for rank, state in enumerate(STATES)}


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """A doubt that stands."""

    name: str
    state: State
    """What it makes of the worker by itself."""
    says: str
    heals: str
    since_s: float
    """Since when, seconds on the clock that the truth is told with."""


class TruthReport(msgspec.Struct, frozen=True, kw_only=True):
    """What can be claimed of a worker now."""

    state: State
    reasons: tuple[Reason, ...]
    """Why it is not better, the worst first."""
    transitions: int
    """Changes of its state ever."""


class Truth:
    """The doubts that stand for one worker. At first nothing has been heard of it.

    `changed(old, new)` is called on every change of the state, `noted()` when a kind of doubt comes or
    goes.
    """

    def __init__(
        self,
        name: str,
        now_s: float,
        changed: Callable[[State, State], None] | None = None,
        noted: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.state: State = "BLIND"
        self.lacks_extras = False
        """Some of its events do not say what is salted or multimodal."""
        self.transitions = 0
        """Changes of state ever."""
        self._changed = changed
        self._noted = noted
        self._standing: dict[str, tuple[float, str]] = {"never_heard": (now_s, "")}

    def doubt(self, name: str, now_s: float, detail: str = "") -> None:
        """Raise a doubt; one that stands already keeps its age."""
        self.change(now_s, doubts={name: detail})

    def settle(self, *names: str) -> None:
        """These doubts are healed; those that do not stand are ignored."""
        self.change(0.0, settled=names)

    def change(
        self, now_s: float, *, doubts: Mapping[str, str] | None = None, settled: Iterable[str] = ()
    ) -> None:
        """Raise doubts, with their details, and settle others, as one change."""
        differs = False
        for name, detail in (doubts or {}).items():
            standing = self._standing.get(name)
            differs |= standing is None
            self._standing[name] = (now_s if standing is None else standing[0], detail)
        for name in settled:
            differs |= self._standing.pop(name, None) is not None
        if differs:
            self._judge()
            if self._noted is not None:
                self._noted()

    def lack_extras(self, lacks: bool) -> None:
        """Whether some of its events do not say what is salted or multimodal."""
        if lacks != self.lacks_extras:
            self.lacks_extras = lacks
            if self._noted is not None:
                self._noted()

    def stands(self, name: str) -> bool:
        return name in self._standing

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why it is not better, the worst first."""
        standing = [(DOUBTS[name], *told) for name, told in list(self._standing.items())]
        standing.sort(key=lambda entry: (-_RANK[entry[0].state], entry[1]))
        return tuple(
            Reason(
                name=doubt.name,
                state=doubt.state,
                says=f"{doubt.says}: {detail}" if detail else doubt.says,
                heals=doubt.heals,
                since_s=since_s,
            )
            for doubt, since_s, detail in standing
        )

    def report(self) -> TruthReport:
        return TruthReport(state=self.state, reasons=self.reasons, transitions=self.transitions)

    def lasting(self) -> dict[str, str]:
        """Names and details of the doubts that another process must go on with, for a checkpoint."""
        return {name: detail for name, (_, detail) in self._standing.items() if name in _LASTING}

    def restore(self, lasting: Mapping[str, str], now_s: float) -> None:
        """Raise what `lasting` has told; other names are of another version and are ignored."""
        for name in _LASTING.intersection(lasting):
            self.doubt(name, now_s, lasting[name])

    def _judge(self) -> None:
        worst = max((_RANK[DOUBTS[name].state] for name in self._standing), default=0)
        old, new = self.state, STATES[worst]
        if old == new:
            return
        self.state = new
        self.transitions += 1
        why = "" if new == "EXACT" else ": " + "; ".join(reason.says for reason in self.reasons)
        _log.log(
            logging.INFO if _RANK[new] < _RANK[old] else logging.WARNING,
            "%s: %s -> %s%s",
            self.name,
            old,
            new,
            why,
        )
        if self._changed is not None:
            self._changed(old, new)
