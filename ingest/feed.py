"""Where batches come from: one socket's worth of publishers, and their replay sockets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kvatlas.index.errors import InputError
from kvatlas.ingest.conversation import Conversation
from kvatlas.ingest.worker_state import WorkerState

if TYPE_CHECKING:
    from kvatlas.ingest.intake import Intake

_TOPICS_MAX = 1 << 16


class FeedNames(msgspec.Struct, frozen=True, kw_only=True):
    """Names for what topics and events leave out."""

    pod: str | None = None
    model: str | None = None
    rank: int | None = None
    overrides: bool = False
    """Pod and model are these whatever topics say, so that a source speaks for nobody else."""


class FeedRequest(NamedTuple):
    """A replay request that should be in flight now. Equal ones are one."""

    handler: Conversation
    """Takes the answer."""
    number: int
    start: int
    """The first batch wanted."""


class Feed:
    """The door of an atlas for one source of batches.

    It makes a stream for each worker it hears. Whoever drives it says when the connection stands or
    breaks, calls `tick` a few times a second, and keeps `requests` in flight. Any thread may call;
    calls take turns with all other writers of the atlas.
    """

    def __init__(
        self, intake: Intake, names: FeedNames, has_replay: Callable[[str, int], bool], *, introduces: bool
    ) -> None:
        self.names = names
        self.has_replay = has_replay
        """Whether the worker (pod, rank) can be asked for past batches."""
        self.connected: bool | None = None
        """None: nobody says."""
        self.is_closed = False
        self.workers: dict[int, WorkerState] = {}
        """Those it speaks for, by number."""
        self.intake = intake
        self._heard: dict[tuple[bytes, int], WorkerState] = {}
        self.introduction = Conversation(self, None) if introduces else None
        """With whoever answers, until that is known."""

    def receive(self, topic: bytes, seq: int, payload: bytes) -> None:
        """Take a live batch: its three frames, `seq` already an integer.

        Bad events inside are counted and skipped. Raises DecodeError when the payload is no batch
        at all, InputError when nobody says which pod and model it is from, or there is no room for
        them; all are counted as `refused_payloads` and change nothing else.
        """
        intake = self.intake
        with intake.lock:
            try:
                if not isinstance(seq, int):
                    raise InputError(f"seq: expected an int, got {type(seq).__name__}")
                intake.decoder.decode(payload)
                worker = self._heard.get((topic, intake.decoder.rank))
                if worker is None or worker.removed:
                    worker = self.identify(topic)
                if worker.feed is self or self.speaks_for(worker, live=True):
                    intake.receive(worker, seq, payload)
            except (InputError, TypeError):
                intake.counts["refused_payloads"] += 1
                raise

    def opened(self) -> None:
        """The connection stands, for the first time or again."""
        with self.intake.lock:
            self.connected = True
            now_s = self.intake.clock_s()
            for worker in self.workers.values():
                worker.stream.opened(now_s)
            if self.introduction is not None:
                self.introduction.introduce(now_s)

    def closed(self) -> None:
        """The connection is broken."""
        with self.intake.lock:
            self.connected = False
            for worker in self.workers.values():
                worker.stream.closed(self.intake.clock_s())

    def close(self) -> None:
        """The source is gone: what it fed is not heard of, until another source speaks for it."""
        with self.intake.lock:
            self.closed()
            self.is_closed = True

    def expect(self, pod: str, model: str, rank: int = 0) -> None:
        """Ask for the past of a worker that has not spoken yet. Raises InputError without room for it."""
        with self.intake.lock:
            worker = self.intake.worker(self, pod, model, rank)
            if self.speaks_for(worker, live=False):
                worker.stream.begin(self.intake.clock_s())

    def tick(self) -> None:
        """Timers; a few times a second."""
        with self.intake.lock:
            now_s = self.intake.clock_s()
            for worker in self.workers.values():
                worker.stream.tick(now_s)
            if self.introduction is not None:
                self.introduction.tick(now_s)

    def requests(self) -> list[FeedRequest]:
        """What should be in flight; any other request is obsolete. Cheap where nothing is asked."""
        if self.introduction is None and not any(w.stream.request for w in list(self.workers.values())):
            return []
        with self.intake.lock:
            talks = [worker.conversation for worker in self.workers.values()]
            wanted = [(talk, talk.request) for talk in (*talks, self.introduction) if talk is not None]
            return [FeedRequest(talk, *request) for talk, request in wanted if request is not None]

    # For its conversations, under the lock.

    def identify(self, topic: bytes) -> WorkerState:
        """Who has published the batch in the decoder. Raises InputError as `receive`."""
        told_rank = self.intake.decoder.rank
        pod, model = self.intake.name(topic, self.names)
        rank = told_rank if told_rank >= 0 else self.names.rank or 0
        worker = self.intake.worker(self, pod, model, rank)
        if len(self._heard) >= _TOPICS_MAX:
            self._heard.clear()
        self._heard[topic, told_rank] = worker
        return worker

    def speaks_for(self, worker: WorkerState, *, live: bool) -> bool:
        """Whether it does, perhaps from now on: its former source is gone, or never heard it live."""
        if worker.feed is self:
            return True
        former, now_s = worker.feed, self.intake.clock_s()
        is_gone = former.is_closed or former.connected is False
        if not is_gone and not (live and math.isinf(worker.stream.heard_s)):
            if live:
                worker.stream.contest(now_s)
            return False
        former.workers.pop(worker.number, None)
        self.add(worker)
        worker.stream.take_over(now_s, has_replay=self.has_replay(worker.pod, worker.rank))
        return True

    def add(self, worker: WorkerState) -> None:
        """Speak for this worker from now on."""
        self.workers[worker.number] = worker
        worker.feed = self
        worker.conversation = Conversation(self, worker)
        worker.stream.connected = self.connected
