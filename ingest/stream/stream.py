"""The numbered batches of one worker, admitted in order and once. No sockets, no clock, no threads.

Live batches come as they may: doubled, with gaps, from another incarnation of the engine, whose
numbers start anew. What does not fit is never guessed about: the replay socket is asked, beginning at
the last batch applied, which must be the very same there; if it is another one or gone, another
incarnation of the engine speaks, and the worker is emptied first.

    flowing   each batch fits the one before and is applied at once
    asking    a replay is under way: its batches are applied as they come, live ones wait; at the end
              marker the live ones follow, and what still does not fit is asked about again

Thread safety: none; calls take turns. Times are seconds of any one clock that never steps back.
"""

from __future__ import annotations

from collections import Counter

from kvatlas.ingest._native import checksum
from kvatlas.ingest.stream.history import HEALED_BY_BATCH, History, StreamSink
from kvatlas.ingest.stream.incarnations import Incarnations
from kvatlas.ingest.stream.inquiry import Inquiry
from kvatlas.ingest.stream.limits import StreamLimits
from kvatlas.ingest.stream.live_buffer import LiveBatch, LiveBuffer
from kvatlas.ingest.stream.replay_talk import ReplayRequest, ReplayTalk
from kvatlas.ingest.stream.truth import Truth

_NEVER = -1


class Stream:
    """One worker's stream, which keeps the worker's truth as far as batches go."""

    def __init__(
        self, sink: StreamSink, truth: Truth, limits: StreamLimits, *, has_replay: bool, now_s: float
    ) -> None:
        self._truth = truth
        self._limits = limits
        self.has_replay = has_replay
        self.connected: bool | None = None
        """None: nobody says."""
        self.counts: Counter[str] = Counter()
        """What has happened, by name (docs/ingest.md)."""
        self._history = History(sink, truth, self.counts)
        self.heard_s = float("-inf")
        """When the last live batch came."""
        self.buffer = LiveBuffer(limits.buffer_batches_max, limits.buffer_bytes_max)
        self._talk = ReplayTalk(limits, now_s)
        self._next = _NEVER  # what may be applied without a second look
        self._incarnations = Incarnations(limits)
        self._inquiry = Inquiry(self._history, truth, self._talk, self._incarnations)

    @property
    def request(self) -> ReplayRequest | None:
        """What is, or should be, asked of the replay socket now."""
        return self._talk.request

    @property
    def last(self) -> int | None:
        """Number of the last batch applied."""
        return self._history.last

    @property
    def position(self) -> tuple[int, int] | None:
        """Number and checksum of the last batch applied."""
        return None if self._history.last is None else (self._history.last, self._history.checksum)

    # What the publisher says.

    def receive(self, seq: int, batch_checksum: int, ts: float | None, payload: bytes, now_s: float) -> bool:
        """Judge a live batch. True: apply it now; else it waits, or is none to apply."""
        self.heard_s = now_s
        if seq == self._next and (ts is None or ts >= self._history.ts):
            self._history.add(seq, batch_checksum, ts)
            self._next = seq + 1
            return True
        batch = LiveBatch(seq, batch_checksum, ts, payload)
        if self._talk.asking:
            self.buffer.add(batch)
            return False
        return self._judge(batch, now_s)

    def opened(self, now_s: float) -> None:
        """The connection to the publisher stands, for the first time or again."""
        again = self.connected is False
        self.connected = True
        self._truth.settle("disconnected")
        if self.has_replay:
            if again and self.last is not None:
                self._truth.doubt("reconnected", now_s)
            # Older answers, and what has waited for them, may be of an engine that is no more.
            self._inquiry.opened(now_s)
            self.buffer.clear()
            self._ask(now_s, whole=self._talk.asking and self._talk.whole and not self._talk.applied)
        elif again and self.last is not None:
            self._inquiry.lose_unasked(now_s, "perhaps, while it was not connected")

    def closed(self, now_s: float) -> None:
        """The connection is broken."""
        if self.connected is not False:
            self.connected = False
            self._truth.doubt("disconnected", now_s)

    # What its replay socket says.

    def replay_began(self, number: int, now_s: float) -> None:
        """The request is on its way."""
        if self._talk.is_current(number):
            self._talk.began(now_s)
            self.buffer.asked()

    def replayed(self, number: int, seq: int, payload: bytes, now_s: float) -> None:
        """A batch of an answer, in the answer's order."""
        talk = self._talk
        if not talk.is_current(number):
            self.counts["late_replies"] += 1
            return
        talk.went_on(now_s)
        opens, talk.answered = not talk.answered, True
        if not talk.whole and not talk.confirmed:
            self._confirm(number, seq, payload, now_s)
            return
        if opens and talk.whole:
            self._truth.doubt("replaying", now_s)
            self._history.begin(seq, now_s)
            self._inquiry.all_comes()
        if talk.skips:
            return
        expected = seq if self.last is None else self._history.next
        if seq < expected:
            if not self._history.knows(seq, checksum(payload)):
                self.replay_failed(number, f"batch {seq} after batch {expected - 1}", now_s)
        elif seq == expected or talk.has_hole_at(expected):
            if seq > expected:
                self.counts["holes"] += seq - expected
                self._history.lose(now_s, f"{seq - expected} batches before {seq} were never published")
            self._truth.doubt("replaying", now_s)
            talk.applied = True
            self.counts["replayed"] += 1
            self._apply(seq, checksum(payload), payload, now_s)
        else:
            talk.skips = True

    def replay_ended(self, number: int, now_s: float) -> None:
        """The end marker of an answer."""
        talk = self._talk
        if not talk.is_current(number):
            return
        if not (talk.answered if talk.whole else talk.confirmed) and self.last is not None:
            self._restart(now_s)  # it has not come as far as we have: another incarnation
            if not talk.whole:
                self._ask_again(now_s)
                return
        self.counts["replays"] += 1
        talk.completed(now_s)
        self._truth.settle("unconfirmed", "lost_contact")
        if talk.skips and self.last is not None:
            talk.note_skip(self._history.next)
            self._ask(now_s)
        else:
            self._end_asking(now_s)

    def replay_failed(self, number: int, why: str, now_s: float) -> None:
        """An answer broke off, or is none."""
        if not self._talk.is_current(number):
            return
        self.counts["replays_failed"] += 1
        self._talk.failed(now_s)
        self._truth.doubt("unconfirmed", now_s, why)
        if not self._talk.may_ask:
            self._flow_in_doubt(now_s)

    # What its owner says.

    def begin(self, now_s: float) -> None:
        """Ask for what was published before, where that can be asked for."""
        if self.has_replay and not self._talk.asking:
            self._ask(now_s)

    def adopt(self, number: int, now_s: float) -> bool:
        """The whole history is coming already, as the answer to this request; False: not needed."""
        if self.last is not None or not self._talk.adopt(number, now_s):
            return False
        self._inquiry.joins(now_s)
        return True

    def resume(self, seq: int, last_checksum: int, now_s: float) -> None:
        """Go on behind this batch, as a checkpoint says; what came since is asked for by whoever can."""
        self._truth.doubt("reconnected", now_s)
        self._history.resume(seq, last_checksum)
        self._calm()
        self.begin(now_s)

    def resync(self, now_s: float) -> None:
        """Ask for the whole history: what is held is not as it should be."""
        if self.has_replay:
            self.counts["resyncs"] += 1
            self._ask(now_s, whole=True)

    def unread(self, why: str, now_s: float) -> None:
        """Something in the batch applied last could not be read."""
        self._history.unread(why, now_s)

    def forgotten(self, now_s: float) -> None:
        """All that was applied has been forgotten by its owner, by a change of block size."""
        if self.last is not None:
            self._history.forget_content(now_s, "it was emptied by a smaller block size")
            self.resync(now_s)

    def contest(self, now_s: float) -> None:
        """Another publisher claims to be the worker; what it says is left out."""
        self.counts["contested"] += 1
        self._incarnations.contest(now_s)
        self._incarnations.watch(self._truth, now_s)

    def take_over(self, now_s: float, *, has_replay: bool) -> None:
        """Another publisher speaks for the worker from now on; it may be another incarnation."""
        self.has_replay = has_replay
        self.connected = None
        self.buffer.clear()
        self._talk.stop()
        self._talk.failures = 0
        self._truth.settle("disconnected", "gap", "suspect", "unconfirmed", "replaying", "reconnected")
        if has_replay:
            self._inquiry.opened(now_s)
            self._truth.doubt("reconnected", now_s)
            self._ask(now_s)
        elif self.last is not None:
            self._inquiry.lose_unasked(now_s, "perhaps, before this publisher spoke")
            self._calm()

    def tick(self, now_s: float) -> None:
        """Timers; a few times a second."""
        talk, limits = self._talk, self._limits
        self._incarnations.watch(self._truth, now_s)
        quiet_s = now_s - max(self.heard_s, talk.confirmed_s)
        why = talk.overdue(now_s)
        if why and talk.request is not None:
            self.replay_failed(talk.request.number, why, now_s)
        elif talk.is_due(now_s):
            self._ask(now_s, whole=talk.whole)
        elif not self.has_replay:
            if self.connected is not None and self.last is not None and quiet_s >= limits.confirm_after_s:
                self._mistrust("silent", now_s)
        elif not talk.asking and not talk.is_pausing and talk.is_long(quiet_s, self.heard_s):
            self._ask(now_s)
        out_of_contact = self.connected is False or talk.failures > 0
        if out_of_contact and quiet_s >= limits.blind_after_s:
            self._mistrust("lost_contact", now_s)

    # Judging live batches while nothing is asked.

    def _judge(self, batch: LiveBatch, now_s: float) -> bool:
        if self._history.knows(batch.seq, batch.checksum):
            self.counts["repeated"] += 1
            return False
        fits = self._fits(batch)
        self.counts["gaps"] += self.last is not None and batch.seq > self._history.next
        if not fits and self.has_replay and self._talk.may_ask:
            self._truth.doubt("gap" if self._history.is_ahead(batch.seq) else "suspect", now_s)
            self.buffer.add(batch)
            self._ask_again(now_s)
            return False
        if not fits:
            self._bear(batch.seq, now_s)
        if self.last is None:
            self._inquiry.begin_unasked(batch.seq, now_s)
        self._truth.settle(*HEALED_BY_BATCH)
        self._history.add(batch.seq, batch.checksum, batch.ts)
        self._calm()
        return True

    def _fits(self, batch: LiveBatch) -> bool:
        """A batch older than the last one may be of an engine that is no more, where that can be asked."""
        return self._history.follows(batch, in_time=self.has_replay)

    def _bear(self, seq: int, now_s: float) -> None:
        """What does not fit must be taken as it is, since nobody can be asked."""
        if self.last is None:
            return
        if seq <= self.last:
            self._restart(now_s)
        elif seq > self._history.next:
            self.counts["missed"] += seq - self._history.next
            self._inquiry.lose_unasked(now_s, f"{seq - self._history.next} batches before {seq}")

    # Applying.

    def _apply(self, seq: int, batch_checksum: int, payload: bytes, now_s: float) -> None:
        self._history.apply(seq, batch_checksum, payload, now_s)
        self._calm()

    def _calm(self) -> None:
        """Decide what may be applied without a second look."""
        calm = self.last is not None and not self._talk.asking
        calm = calm and not any(map(self._truth.stands, HEALED_BY_BATCH))
        self._next = self._history.next if calm else _NEVER

    def _mistrust(self, doubt: str, now_s: float) -> None:
        """Until the next batch."""
        self._truth.doubt(doubt, now_s)
        self._calm()

    def _restart(self, now_s: float) -> None:
        self._incarnations.began(now_s)
        self._history.restart(now_s)
        self._talk.forget_skips()
        self._calm()

    # Asking.

    def _ask(self, now_s: float, *, whole: bool = False) -> None:
        self._inquiry.ask(now_s, whole=whole)
        self._calm()

    def _ask_again(self, now_s: float) -> None:
        self._inquiry.ask_again(now_s)
        self._calm()

    def _confirm(self, number: int, seq: int, payload: bytes, now_s: float) -> None:
        """A batch of an answer up to the last batch applied: they must be the very same."""
        assert self.last is not None
        oldest = self._history.oldest
        if seq < oldest:
            self.replay_failed(number, f"asked from batch {oldest} on, got batch {seq}", now_s)
        elif self._history.knows(seq, checksum(payload)):
            self._talk.confirmed = seq == self.last
        else:
            self._restart(now_s)
            self._ask_again(now_s)

    def _end_asking(self, now_s: float) -> None:
        """A complete answer has been applied: the live batches follow."""
        self._talk.forget_skips()
        self._inquiry.answered(now_s)
        contradicted = self.counts["contradicted"]
        while len(self.buffer):
            batch, was_asked_for = self.buffer.pop()
            if not self._follow(batch, was_asked_for, now_s):
                return
        if self.counts["contradicted"] == contradicted:
            self._inquiry.contradictions = 0
            self._truth.settle("contradicted")
        if self.buffer.take_overflow():
            self._ask(now_s)
            return
        self._talk.stop()
        if self._inquiry.is_joining:
            self._inquiry.joined(self._limits.join_s)
        self._calm()

    def _follow(self, batch: LiveBatch, was_asked_for: bool, now_s: float) -> bool:
        """Apply a batch that has waited, or leave it out; False: it is asked about first."""
        if self.last is not None and batch.seq <= self.last:
            if self._history.knows(batch.seq, batch.checksum):
                self.counts["repeated"] += 1
                return True
            if was_asked_for and not self._talk.answered and self._history.is_in_time(batch):
                self._restart(now_s)  # a replay socket that keeps nothing
                self._leave_out(batch, now_s)
                return True
            if was_asked_for:
                self.counts["foreign"] += 1  # the answer, asked for later, has another one
                return True
        elif not was_asked_for and self._fits(batch):
            if self.last is None:
                self._history.begin(batch.seq, now_s)
            self._apply(batch.seq, batch.checksum, batch.payload, now_s)
            return True
        if was_asked_for and self._inquiry.contradictions >= self._limits.hole_answers:
            self._leave_out(batch, now_s)
            return True
        self._inquiry.contradictions += was_asked_for
        self.buffer.put_back(batch)
        self._truth.doubt("gap" if self._history.is_ahead(batch.seq) else "suspect", now_s)
        self._ask_again(now_s)
        return False

    def _leave_out(self, batch: LiveBatch, now_s: float) -> None:
        """No answer knows of it, though each was asked for when it had come."""
        self.counts["contradicted"] += 1
        if self.last is None:  # a replay socket that keeps nothing
            self._history.begin(batch.seq, now_s)
            self._apply(batch.seq, batch.checksum, batch.payload, now_s)
        else:
            self._truth.doubt("contradicted", now_s, f"batch {batch.seq} after batch {self.last}")

    def _flow_in_doubt(self, now_s: float) -> None:
        """Nobody answers: what waits is taken as it is."""
        self._talk.asking = False
        if self._truth.stands("reconnected"):
            self._inquiry.lose_unasked(now_s, "perhaps, while it was not connected")
        self._truth.settle("replaying", "gap", "suspect", "reconnected")
        while len(self.buffer):
            batch, _ = self.buffer.pop()
            if self._judge(batch, now_s):
                self._apply(batch.seq, batch.checksum, batch.payload, now_s)
        if self.buffer.take_overflow():
            self._inquiry.lose_unasked(now_s, "live batches that found no room")
        self._calm()
