"""What model servers publish, written to a file as it comes."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

import msgspec
import zmq

from kvatlas.index.errors import ConfigError, RecordingError
from kvatlas.ingest.recording.recorder_live import LiveSource
from kvatlas.ingest.recording.recorder_queue import Received, RecorderQueue
from kvatlas.ingest.recording.recorder_replay import ReplayQuestion, ReplayState
from kvatlas.ingest.recording.records import Role, Source
from kvatlas.ingest.recording.writer import RecordingWriter

_POLL_MS = 50
_TAKE_S = 0.1

_log = logging.getLogger(__name__)


class RecorderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to record, and within which bounds."""

    # Behaviour.
    endpoints: tuple[str, ...] = ()
    """Publishers to connect to."""
    listen: str | None = None
    """Where to listen for publishers that dial."""
    replay_endpoints: tuple[str, ...] = ()
    """Replay sockets to ask at the start, in the order of `endpoints`; further ones stand alone."""

    # Performance and bounds.
    queue_bytes_max: int = 64 << 20
    """What may wait for the disk; beyond that messages are dropped, and the recording says how many.
    At most three times as much is held: here, in the writer's hands, and in the block begun."""
    messages_max: int = 100_000
    """What may wait in each live socket."""
    message_bytes_max: int = 64 << 20
    """A frame of more ends the connection to its server, which is then dialled anew."""
    chunk_bytes: int = 1 << 20
    """Records of so many bytes are compressed together."""
    chunk_age_s: float = 1.0
    """The longest that a record waits for others: what a crash may cost."""
    replay_timeout_s: float = 5.0
    """Silence after which a replay socket is asked again."""
    replay_attempts: int = 3


class RecorderStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What one recorder has seen so far."""

    connections: int
    """Publishers connected right now."""
    live_messages: int
    """Received from publishers, of any shape."""
    replayed_messages: int
    """Received from replay sockets, end markers included."""
    recorded_messages: int
    """In the file, or in the block begun."""
    frame_bytes: int
    """Of those."""
    lost_messages: int
    """Dropped for want of room in the queue, or too large for a block; the recording says where."""
    replays: dict[str, int]
    """Replay sockets by state: waiting, answering, complete, incomplete."""
    replies_left_out: int
    """Behind a hole of an answer that was asked for again."""
    waiting_bytes: int
    file_bytes: int
    failure: str | None
    """Why recording has ended by itself."""


class Recorder:
    """Sockets, a thread that drains them, and a thread that writes; a context manager.

    When the file can no longer be written it stops, and stays as it is: `statistics().failure` says why,
    `stop` raises it. Its methods may be called from any thread, `start` and `stop` by turns.
    Raises ConfigError when an endpoint cannot be used, RecordingError when the file cannot.
    """

    def __init__(self, path: str | os.PathLike[str], config: RecorderConfig, *, append: bool = False) -> None:
        if not config.endpoints and config.listen is None and not config.replay_endpoints:
            raise ConfigError("endpoints, listen, replay_endpoints: expected at least one endpoint, got none")
        self.config = config
        self._queue = RecorderQueue(config.queue_bytes_max)
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._said: str | None = None
        self._context = zmq.Context()
        self._live: list[LiveSource] = []
        self._questions: list[ReplayQuestion] = []
        try:
            self._open_sockets()
            self._writer = RecordingWriter(
                path,
                self.sources,
                append=append,
                chunk_bytes=config.chunk_bytes,
                chunk_age_s=config.chunk_age_s,
            )
        except BaseException:
            self._close_sockets()
            raise
        self._threads = [
            threading.Thread(target=self._guarded, args=(run,), name=f"kvatlas-recorder-{name}", daemon=True)
            for name, run in (("sockets", self._receive), ("file", self._write))
        ]

    def _open_sockets(self) -> None:
        config = self.config
        binds = [(endpoint, False) for endpoint in config.endpoints]
        if config.listen is not None:
            binds.append((config.listen, True))
        for number, (endpoint, bind) in enumerate(binds):
            live = LiveSource(
                self._context,
                number,
                endpoint,
                bind=bind,
                messages_max=config.messages_max,
                message_bytes_max=config.message_bytes_max,
            )
            self._live.append(live)
        for place, endpoint in enumerate(config.replay_endpoints):
            question = ReplayQuestion(
                self._context,
                len(self._live) + place,
                endpoint,
                self._live[place] if place < len(config.endpoints) else None,
                timeout_s=config.replay_timeout_s,
                attempts=config.replay_attempts,
                message_bytes_max=config.message_bytes_max,
            )
            self._questions.append(question)

    @property
    def sources(self) -> list[Source]:
        """What it records, by number in its session; bound endpoints with their port."""
        config = self.config
        bound = len(config.endpoints)
        live = [
            Source(endpoint=one.endpoint, role=Role.BOUND if one.number == bound else Role.CONNECTED)
            for one in self._live
        ]
        replays = [
            Source(endpoint=endpoint, role=Role.REPLAY, replay_of=place if place < bound else None)
            for place, endpoint in enumerate(config.replay_endpoints)
        ]
        return [*live, *replays]

    def start(self) -> Recorder:
        """Begins; returns itself."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Writes down what was received, and closes the file and the sockets. Twice is fine.

        Raises what ended the recording early, if something did.
        """
        self._stopping.set()
        for thread in self._threads:  # the sockets first: what they have handed on is still written
            if thread.ident is not None:
                thread.join()
            self._queue.close()
        self._close_sockets()
        failure, self._failure = self._failure, None
        try:
            self._writer.close()
        except RecordingError as error:
            failure, self._said = failure or error, str(error)
        if failure is not None:
            raise failure

    def statistics(self) -> RecorderStatistics:
        counts = self._counts
        states = Counter(question.state for question in self._questions)
        return RecorderStatistics(
            connections=sum(live.connections for live in self._live),
            live_messages=counts["live"],
            replayed_messages=counts["replayed"],
            recorded_messages=counts["recorded"],
            frame_bytes=counts["frame_bytes"],
            lost_messages=counts["lost"],
            replays={state.value: states[state] for state in ReplayState},
            replies_left_out=sum(question.left_out for question in self._questions),
            waiting_bytes=self._queue.waiting_bytes,
            file_bytes=self._writer.file_bytes,
            failure=self._said,
        )

    def wait_until(self, condition: Callable[[RecorderStatistics], bool], timeout_s: float) -> bool:
        """Whether `condition` came true of the statistics within `timeout_s`; False once it has failed."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition(self.statistics()):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._said is not None:
                    return False
                self._changed.wait(left_s)
            return True

    def __enter__(self) -> Recorder:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _guarded(self, run: Callable[[], None]) -> None:
        """Runs a thread; what ends it ends the other one, and is kept for `stop`."""
        try:
            run()
        except BaseException as error:  # in a thread it would only be printed
            with self._changed:
                if self._said is None:
                    self._failure, self._said = error, str(error) or type(error).__name__
                    _log.error("recording has ended: %s", self._said)
            self._stopping.set()
            self._queue.close()
        with self._changed:
            self._changed.notify_all()

    # The receiving thread.

    def _receive(self) -> None:
        poller = zmq.Poller()
        for live in self._live:
            poller.register(live.socket, zmq.POLLIN)
            poller.register(live.monitor.socket, zmq.POLLIN)
        for question in self._questions:
            poller.register(question.socket, zmq.POLLIN)
        while not self._stopping.is_set():
            ready = dict(poller.poll(_POLL_MS))
            has_changed = bool(ready)
            for live in self._live:
                if live.monitor.socket in ready:
                    live.follow_connection(self._keep)
                if live.socket in ready:
                    live.drain(self._keep)
            for question in self._questions:
                if question.socket in ready:
                    question.drain(self._keep)
                has_changed |= question.advance()
            if has_changed:
                with self._changed:
                    self._changed.notify_all()

    def _keep(self, number: int, frames: list[bytes]) -> None:
        self._counts["live" if number < len(self._live) else "replayed"] += 1
        if not self._queue.put(Received(number, frames, time.monotonic_ns())):
            self._counts["lost"] += 1

    def _close_sockets(self) -> None:
        if self._context.closed:
            return
        for live in self._live:
            live.close()
        for question in self._questions:
            question.close()
        self._context.term()

    # The writing thread.

    def _write(self) -> None:
        writer = self._writer
        while (taken := self._queue.take(_TAKE_S)) is not None:
            for message in taken.received:
                if writer.message(message.source, message.frames, message.monotonic_ns):
                    self._counts["recorded"] += 1
                    self._counts["frame_bytes"] += sum(map(len, message.frames))
                else:
                    writer.lost(message.source, 1, message.monotonic_ns)
                    self._counts["lost"] += 1
            for source, messages in taken.lost.items():
                writer.lost(source, messages, taken.lost_ns)
            writer.flush_if_due()
            if taken.received or taken.lost:
                with self._changed:
                    self._changed.notify_all()
