"""The answers of a replay socket, on their way to the worker that asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvatlas.index.errors import DecodeError, InputError, KvatlasError
from kvatlas.ingest.stream.replay_talk import ReplayRequest, ReplayTalk

if TYPE_CHECKING:
    from kvatlas.ingest.feed import Feed
    from kvatlas.ingest.worker_state import WorkerState


class Conversation:
    """A worker's conversation with its replay socket.

    Without a worker it is with whoever answers: the first batch of an answer says who that is, and
    from then on it is that worker's. Any thread may call the four methods that take a number; calls
    take turns with all other writers of the atlas.
    """

    def __init__(self, feed: Feed, worker: WorkerState | None) -> None:
        self._feed = feed
        self._worker = worker
        self._talk = ReplayTalk(feed.intake.limits, feed.intake.clock_s())
        self._checked = 0  # number of the last request of whose answer the sender was checked

    @property
    def pod(self) -> str | None:
        """Whom to ask; None: not known yet."""
        return self._feed.names.pod if self._worker is None else self._worker.pod

    @property
    def rank(self) -> int | None:
        return self._feed.names.rank if self._worker is None else self._worker.rank

    @property
    def request(self) -> ReplayRequest | None:
        """What should be asked now."""
        return self._talk.request if self._worker is None else self._worker.stream.request

    @property
    def _is_over(self) -> bool:
        """Its worker was removed: its lanes may be another's by now, and answers still come."""
        return self._worker is not None and self._worker.removed

    def began(self, number: int) -> None:
        """The request is on its way."""
        intake = self._feed.intake
        with intake.lock:
            if self._is_over:
                return
            if self._worker is not None:
                self._worker.stream.replay_began(number, intake.clock_s())
            elif self._talk.is_current(number):
                self._talk.began(intake.clock_s())

    def replayed(self, number: int, topic: bytes | None, seq: int, payload: bytes) -> None:
        """A batch of the answer, in its order; `topic` None where the server's answers have none."""
        intake = self._feed.intake
        with intake.lock:
            if self._is_over:
                return
            now_s = intake.clock_s()
            try:
                if self._worker is None:
                    self._meet(number, topic, payload, now_s)
                elif number != self._checked:
                    self._check(topic, payload)
            except KvatlasError as error:
                self.failed(number, str(error))
                return
            self._checked = number
            if self._worker is not None:
                self._worker.stream.replayed(number, seq, payload, now_s)

    def ended(self, number: int) -> None:
        """The end marker of the answer."""
        intake = self._feed.intake
        with intake.lock:
            if self._is_over:
                return
            if self._worker is not None:
                self._worker.stream.replay_ended(number, intake.clock_s())
            elif self._talk.is_current(number):
                self._talk.completed(intake.clock_s())
                self._talk.stop()  # it has published nothing yet

    def failed(self, number: int, why: str) -> None:
        """The answer broke off, or is none."""
        intake = self._feed.intake
        with intake.lock:
            if self._is_over:
                return
            if self._worker is not None:
                self._worker.stream.replay_failed(number, why, intake.clock_s())
            elif self._talk.is_current(number):
                intake.counts["introductions_failed"] += 1
                self._talk.failed(intake.clock_s())

    # For its feed, under the lock, while nobody is known.

    def introduce(self, now_s: float) -> None:
        """Ask whoever answers who it is."""
        self._talk.ask(0, now_s, whole=True)

    def tick(self, now_s: float) -> None:
        talk, limits = self._talk, self._feed.intake.limits
        why = talk.overdue(now_s)
        if why and talk.request is not None:
            self.failed(talk.request.number, why)
        elif talk.is_due(now_s) or (
            not talk.asking
            and self._feed.connected
            and not self._feed.workers
            and now_s - talk.confirmed_s >= limits.confirm_every_s
        ):
            self.introduce(now_s)

    def _meet(self, number: int, topic: bytes | None, payload: bytes, now_s: float) -> None:
        """Raises KvatlasError when the batch does not say who has published it."""
        if not self._talk.is_current(number):
            return
        self._feed.intake.decoder.decode(payload)
        worker = self._feed.identify(topic or b"")
        if not self._feed.speaks_for(worker, live=False):
            raise InputError(f"pod: expected one that no other endpoint speaks for, got {worker.pod!r}")
        self._talk.stop()
        if worker.stream.adopt(number, now_s):
            self._worker = worker
            worker.conversation = self
        else:
            worker.stream.begin(now_s)
        self._feed.introduction = None

    def _check(self, topic: bytes | None, payload: bytes) -> None:
        """Raises KvatlasError when another worker's batches come."""
        worker, intake = self._worker, self._feed.intake
        assert worker is not None
        if topic is not None:
            pod, model = intake.name(topic, self._feed.names)
            if (pod, model) != (worker.pod, worker.model):
                raise InputError(f"replay: expected {worker.pod!r} of {worker.model!r}, got topic {topic!r}")
        try:
            intake.decoder.decode(payload)
        except DecodeError:
            return  # published like that: its stream counts it
        if intake.decoder.rank not in (-1, worker.rank):
            raise InputError(f"replay: expected rank {worker.rank}, got {intake.decoder.rank}")
