"""What one subscriber sends one process of a shard: content first, then every change, each once.

    NEW ── begin_load ──> LOADING ── last part acknowledged ──> FED
     ^                       │                                   │
     └── resync, overflow, refused often, numbers that do not fit ┘        OVER: its session is retired

One message is in flight; what comes meanwhile is gathered and goes with the next. Numbers only rise
and never name two messages, so a message that is late, repeated or lost does no harm. After each
doubt (no answer, a refusal, an answer that does not fit) the shard is asked what it has (HELLO), and
the message in question is sent again, or taken for applied, or all is loaded anew.

Thread safety: one thread at a time. No sockets, no clock: whoever drives it gives the time.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import NamedTuple

import msgspec

from kvatlas.actors.link.messages import (
    Address,
    Kind,
    Message,
    content,
    decode_message,
    delta,
    hello,
)
from kvatlas.actors.subscriber.records import split_records
from kvatlas.index.errors import ConfigError, DecodeError

_REFUSALS_MAX = 5


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what is sent to one replica."""

    gathered_bytes_max: int = 64 << 20
    """Bytes of changes that wait for one replica; beyond, they are dropped and it is loaded anew. While
    it is loaded, content waits beside them: two messages, and that of one worker."""
    message_bytes_max: int = 8 << 20
    """Of records in one message."""
    retry_s_min: float = 0.05
    """Pause after a failure, before the shard is asked again; doubled each time."""
    retry_s_max: float = 2.0
    """The longest such pause."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value, least = getattr(self, name), 0.001 if "_s_" in name else 1
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
                raise ConfigError(f"outbox.feed.{name}: expected a number of at least {least}, got {value!r}")


class Phase(Enum):
    NEW = "new"
    """It needs the content; nothing is gathered for it."""
    LOADING = "loading"
    FED = "fed"
    OVER = "over"
    """The shard says that this session is retired."""


class Part(NamedTuple):
    """What these lanes hold; without lanes, more of what the lanes of the part before hold."""

    lanes: tuple[int, ...]
    records: bytes
    first: bool = False
    last: bool = False


class Frame(NamedTuple):
    """A message in flight."""

    data: bytes
    number: int
    """0: it asks (HELLO)."""
    mark: int
    """Of the newest records in it."""
    begins: bool
    """First of a load."""
    ends: bool
    """Last of a load."""


class ReplicaFeed:
    """The state of one replica, as the subscriber knows it."""

    def __init__(self, address: Address, session: int, limits: FeedLimits | None = None) -> None:
        self.address = address
        self.session = session
        self.phase = Phase.NEW
        self.counts: Counter[str] = Counter()
        self.queued_bytes = 0
        self.in_flight: Frame | None = None
        self.delivered = 0
        """Mark of the newest records that it has acknowledged, with all before them."""
        self._limits = limits or FeedLimits()
        self._queue: deque[tuple[int, bytes | Part]] = deque()
        self._gathered_bytes = 0
        """Of `queued_bytes`, those of changes."""
        self._number = 0
        """The last one used."""
        self._mark = 0
        self._loaded_at = 0
        self._asks = True
        self._doubtful: Frame | None = None
        """Sent, and nobody knows whether it was applied."""
        self._refusals = 0
        self._failures = 0
        self._retry_at_s = 0.0

    @property
    def wants_content(self) -> bool:
        return self.phase is Phase.NEW and not self._asks and self.in_flight is None

    @property
    def is_loaded(self) -> bool:
        """It has acknowledged the content, and what came while that was on its way."""
        return self.phase is Phase.FED and self.delivered >= self._loaded_at

    @property
    def takes(self) -> bool:
        """Changes must be put, or it would miss them."""
        return self.phase in (Phase.LOADING, Phase.FED)

    @property
    def wakes_at_s(self) -> float:
        """When `next_frame` is to be asked although nothing has happened."""
        waits = self.in_flight is None and (self._asks or self._doubtful is not None)
        return self._retry_at_s if waits and self.phase is not Phase.OVER else float("inf")

    # What comes in.

    def begin_load(self) -> None:
        """The content follows; what is put between its parts is applied between them."""
        assert self.phase is Phase.NEW
        self.phase = Phase.LOADING
        self._queue.append((self._mark, Part((), b"", first=True)))

    def put_content(self, lanes: tuple[int, ...], records: bytes) -> None:
        """All that these lanes hold at this moment. Whoever loads waits while much is queued."""
        if self.phase is not Phase.LOADING:
            return
        for piece in split_records(records, self._limits.message_bytes_max):
            self._queue.append((self._mark, Part(lanes, piece)))
            self.queued_bytes += len(piece)
            lanes = ()

    def end_load(self) -> None:
        if self.phase is Phase.LOADING:
            self._queue.append((self._mark, Part((), b"", last=True)))

    def put(self, records: bytes, mark: int) -> None:
        """Changes, in their order; `mark` never falls. Beyond the bound all is dropped and loaded anew."""
        self._mark = mark
        if records and self.takes:
            self._queue.append((mark, records))
            self.queued_bytes += len(records)
            self._gathered_bytes += len(records)
            if self._gathered_bytes > self._limits.gathered_bytes_max:
                self.drop("overflows")
        elif not self._queue and self._doubtful is None and self.in_flight is None:
            self.delivered = mark

    def drop(self, why: str) -> None:
        """Forget what waits; it is loaded anew. `why` is counted."""
        if self.takes:
            self.counts[why] += 1
            self._empty()

    def _empty(self) -> None:
        self.phase = Phase.NEW
        self._queue.clear()
        self.queued_bytes = self._gathered_bytes = 0
        self._doubtful = None
        self._refusals = 0

    # What goes out.

    def next_frame(self, now_s: float) -> bytes | None:
        """The message to send now; None: nothing, or not yet. `answered` or `failed` must follow."""
        if self.in_flight is not None or self.phase is Phase.OVER or now_s < self._retry_at_s:
            return None
        if self._asks:
            self.in_flight = Frame(hello(self.address, self.session), 0, 0, False, False)
        elif self._doubtful is not None:
            self.in_flight, self._doubtful = self._doubtful, None
            self.counts["repeated"] += 1
        elif self._queue:
            self.in_flight = self._pack()
        else:
            return None
        return self.in_flight.data

    def _pack(self) -> Frame:
        self._number += 1
        if isinstance(self._queue[0][1], Part):
            return self._pack_parts()
        pieces: list[bytes] = []
        mark = size = 0
        while self._queue:
            at, item = self._queue[0]
            if isinstance(item, Part) or (pieces and size + len(item) > self._limits.message_bytes_max):
                break
            self._queue.popleft()
            pieces.append(item)
            mark, size = at, size + len(item)
        self.queued_bytes -= size
        self._gathered_bytes -= size
        self.counts["deltas"] += 1
        frame = delta(self.address, self.session, self._number, b"".join(pieces))
        return Frame(frame, self._number, mark, False, False)

    def _pack_parts(self) -> Frame:
        lanes: list[int] = []
        pieces: list[bytes] = []
        mark = size = 0
        first = last = False
        size_max = self._limits.message_bytes_max
        while self._queue:
            at, item = self._queue[0]
            if not isinstance(item, Part):
                break
            is_end, has_end = item.records and not item.lanes, size and not lanes
            if pieces and (is_end or (has_end and item.lanes) or size + len(item.records) > size_max):
                break  # the end of a lane goes alone
            self._queue.popleft()
            lanes.extend(item.lanes)
            pieces.append(item.records)
            first, last, mark, size = first or item.first, last or item.last, at, size + len(item.records)
        self.queued_bytes -= size
        self.counts["parts"] += 1
        data = content(
            self.address, self.session, self._number, lanes, b"".join(pieces), first=first, last=last
        )
        return Frame(data, self._number, mark, first, last)

    # What comes back.

    def failed(self, now_s: float) -> None:
        """No answer came, and none will. A load begins anew then: those in it beside should not wait."""
        self.counts["unanswered"] += 1
        if self.phase is Phase.LOADING:
            self.drop("broken_loads")
        self._doubt(now_s)

    def answered(self, reply: bytes, now_s: float) -> None:
        sent = self.in_flight
        assert sent is not None
        try:
            message = decode_message(reply)
        except DecodeError:
            self.counts["unreadable"] += 1
            self._doubt(now_s)
            return
        if message.kind is Kind.FENCED:
            self._fenced(message, now_s)
        elif message.kind is Kind.REFUSED:
            self._refused(now_s)
        elif message.kind not in (Kind.APPLIED, Kind.RESYNC) or not self._is_from_it(message):
            self.counts["unreadable"] += 1
            self._doubt(now_s)
        else:
            self.in_flight = None
            if sent.number == 0:
                self._told(message)
            else:
                self._replied(sent, message, now_s)

    def _is_from_it(self, message: Message) -> bool:
        return message.address == self.address and message.session == self.session

    def _told(self, message: Message) -> None:
        """What the shard has, after HELLO."""
        self._asks = False
        self._failures = 0
        doubtful, self._doubtful = self._doubtful, None
        is_loaded = message.kind is Kind.APPLIED
        have, last = message.number, doubtful.number if doubtful is not None else self._number
        self._number = max(self._number, have)
        if not self.takes:
            return
        if have == last and (is_loaded or self.phase is Phase.LOADING):
            if doubtful is not None:
                self._acknowledged(doubtful)
        elif doubtful is not None and (doubtful.begins or have == last - 1):
            self._doubtful = doubtful
        else:
            self.drop("resyncs")

    def _replied(self, sent: Frame, message: Message, now_s: float) -> None:
        """To content or changes."""
        if message.kind is Kind.APPLIED and message.number == sent.number:
            self._failures = 0
            self._acknowledged(sent)
        elif message.kind is Kind.RESYNC:
            self._number = max(self._number, message.number)
            self.drop("resyncs")
        else:  # an answer to an older message
            self.in_flight = sent
            self.counts["unreadable"] += 1
            self._doubt(now_s)

    def _acknowledged(self, sent: Frame) -> None:
        self._refusals = 0
        if not self.takes:
            return
        self.delivered = sent.mark if self._queue else self._mark
        if sent.ends:
            self.phase = Phase.FED
            self._loaded_at = self._mark
            self.counts["loads"] += 1

    def _fenced(self, message: Message, now_s: float) -> None:
        """The session is over, or another process is there now: the view will tell."""
        self.counts["fenced"] += 1
        self._empty()
        self._doubt(now_s)
        self._retry_at_s = now_s + self._limits.retry_s_max
        if message.is_session_over:
            self.phase = Phase.OVER

    def _refused(self, now_s: float) -> None:
        """It may be a full queue; what is refused again and again is given up."""
        self.counts["refused"] += 1
        self._refusals += 1
        self._doubt(now_s)
        if self._refusals >= _REFUSALS_MAX:
            self.drop("resyncs")

    def _doubt(self, now_s: float) -> None:
        """Ask what it has, a moment later."""
        sent, self.in_flight = self.in_flight, None
        if sent is not None and sent.number and self.takes:
            self._doubtful = sent
        self._asks = True
        pause_s = self._limits.retry_s_min * 2 ** min(max(self._failures, self._refusals), 16)
        self._failures += 1
        self._retry_at_s = now_s + min(pause_s, self._limits.retry_s_max)
