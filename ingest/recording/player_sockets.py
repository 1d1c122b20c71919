"""A recording played into ZeroMQ sockets: a publisher and a replay socket for each server recorded."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from types import TracebackType
from typing import TypeAlias

import msgspec
import zmq

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.publishing.replay_socket import ReplaySocket, bind
from kvatlas.ingest.recording.order import Batch, Selection, Told, speaker_of, told
from kvatlas.ingest.recording.player import Pace, PlayStatistics, statistics_of
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.records import Role, Source

_POLL_MS = 5
_SEND_MS = 50
_LOOK_S = 0.1
_HWM_PACED = 100_000
_HWM_FULL_SPEED = 1000
_LINGER_MS = 5000
_SUBSCRIBE = b"\x01"

_Socket: TypeAlias = "zmq.Socket[bytes]"


class SocketPlayerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to play into sockets."""

    speed: float | None = 1.0
    """Times the speed of the recording. Publishers then drop what a slow subscriber leaves beyond 100 000
    messages, as real ones do. None: full speed, waiting for the slowest subscriber."""
    bind: tuple[str, ...] = ("tcp://127.0.0.1:*",)
    """Of publishers: one for each server, or one with `*` for all."""
    replay_bind: str | None = "tcp://127.0.0.1:*"
    """Of replay sockets, with `*`. None: no replay."""
    buffer_steps: int = 10_000
    """Batches that a replay socket holds."""


class PlayedServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a recorded server can be heard."""

    recorded: str
    """Its endpoint when it was recorded."""
    endpoint: str
    replay_endpoint: str | None
    """None also for a source that many servers dialled: their sequence numbers are mixed."""


class SocketPlayer:
    """Binds on entry; a context manager. What replay sockets had answered can be asked for at once.

    Messages are published as they came, whatever their shape. It is used by one thread; `stop` and
    `statistics` from any.
    Raises ConfigError when an endpoint cannot be bound, or endpoints and servers do not match.
    """

    def __init__(
        self, reader: RecordingReader, config: SocketPlayerConfig, selection: Selection | None = None
    ) -> None:
        self._reader = reader
        self._config = config
        self._selection = Selection() if selection is None else selection
        self._stopping = threading.Event()
        self._pace = Pace(config.speed, self._stopping)
        self._counts: Counter[str] = Counter()
        self._reached_ns = 0
        self._context = zmq.Context()
        self._outlets: dict[str, _Outlet] = {}
        self._steps: Iterator[Told] = iter(())

    def __enter__(self) -> SocketPlayer:
        try:
            self._open()
        except BaseException:
            self.close(linger_ms=0)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(linger_ms=_LINGER_MS if kind is None else 0)

    @property
    def servers(self) -> list[PlayedServer]:
        return [outlet.played for outlet in self._outlets.values()]

    def wait_for_subscribers(
        self, count: int = 1, timeout_s: float = 10.0, look: Callable[[], object] = lambda: None
    ) -> bool:
        """Whether each publisher had so many subscriptions within the time; `look` is called meanwhile."""
        deadline_s = time.monotonic() + timeout_s
        while any(outlet.subscribers() < count for outlet in self._outlets.values()):
            if time.monotonic() >= deadline_s or self._stopping.wait(_POLL_MS / 1000):
                return False
            look()
        return True

    def play(self, look: Callable[[], object] = lambda: None) -> PlayStatistics:
        """Returns at the end of the recording, or soon after `stop`; calls `look` after each message."""
        for one in self._steps:
            if one.is_answer:
                self._offer(one)
            elif not self._pace.keep(one.message.time_ns) or not self._publish(one):
                break
            self._reached_ns = max(self._reached_ns, one.message.time_ns)
            look()
        return self.statistics()

    def answer(self, look: Callable[[], object] = lambda: None) -> None:
        """Goes on answering replay requests until `stop`; calls `look` meanwhile."""
        while not self._stopping.wait(_LOOK_S):
            look()

    def stop(self) -> None:
        """Ends `play` and waits soon."""
        self._stopping.set()

    def statistics(self) -> PlayStatistics:
        return statistics_of(self._counts, self._reader, self._reached_ns)

    def close(self, linger_ms: int = 0) -> None:
        """Closes the sockets; what is not sent after so long is dropped. Twice is fine."""
        if self._context.closed:
            return
        for outlet in self._outlets.values():
            outlet.close(linger_ms)
        self._context.term()

    def _open(self) -> None:
        speakers = self._speakers()
        topics = self._first_topics(set(speakers))
        for (recorded, source), endpoint in zip(speakers.items(), self._binds(len(speakers)), strict=True):
            outlet = _Outlet(self._context, recorded, self._config)
            self._outlets[recorded] = outlet
            replays = source.role is not Role.BOUND
            outlet.open(endpoint, topics.get(recorded, b""), self._config.replay_bind if replays else None)
        steps = told(self._reader, self._selection, self._counts)
        for one in steps:
            if not one.is_answer:
                self._steps = chain([one], steps)
                break
            self._offer(one)

    def _speakers(self) -> dict[str, Source]:
        """The servers, by their endpoint."""
        speakers: dict[str, Source] = {}
        for session in self._reader.sessions:
            sources = session.session.numbered
            for number, source in sources.items():
                if self._selection.takes(number, source):
                    speaker = speaker_of(source, sources)
                    speakers.setdefault(speaker.endpoint, speaker)
        return speakers

    def _first_topics(self, wanted: set[str]) -> dict[str, bytes]:
        topics: dict[str, bytes] = {}
        for one in told(self._reader, self._selection):
            if one.batch is not None:
                topics.setdefault(one.source.endpoint, one.batch.topic)
            if topics.keys() >= wanted:
                break
        return topics

    def _binds(self, count: int) -> list[str]:
        binds = self._config.bind
        if len(binds) == 1 and "*" in binds[0].rpartition(":")[2]:
            return [binds[0]] * count
        if len(binds) != count:
            raise ConfigError(f"bind: expected {count} endpoints or one with '*', got {len(binds)}")
        return list(binds)

    def _publish(self, one: Told) -> bool:
        """False when stopped while a subscriber was slow."""
        if one.batch is None:
            self._counts["malformed"] += 1
        if one.batch is not None and not one.is_known:  # first: whoever has heard it may ask for it at once
            self._outlets[one.source.endpoint].offer(one.batch)
        if one.message.frames:
            while not self._outlets[one.source.endpoint].publish(list(one.message.frames)):
                if self._stopping.is_set():
                    return False
            self._counts["played"] += 1
        return True

    def _offer(self, one: Told) -> None:
        if one.batch is None:
            self._counts["malformed"] += 1
        elif one.is_known:
            self._counts["known"] += 1
        else:
            self._counts["answered"] += 1
            self._outlets[one.source.endpoint].offer(one.batch)


class _Outlet:
    """The sockets of one server."""

    def __init__(self, context: zmq.Context[_Socket], recorded: str, config: SocketPlayerConfig) -> None:
        self._context = context
        self._recorded = recorded
        self._config = config
        self._publisher = context.socket(zmq.XPUB)
        self._publisher.set(zmq.XPUB_VERBOSER, 1)
        if config.speed is None:
            self._publisher.set(zmq.SNDHWM, _HWM_FULL_SPEED)
            self._publisher.set(zmq.XPUB_NODROP, 1)
            self._publisher.set(zmq.SNDTIMEO, _SEND_MS)
        else:
            self._publisher.set(zmq.SNDHWM, _HWM_PACED)
        self._replay: ReplaySocket | None = None
        self._subscribers = 0
        self._last = -1
        self.played = PlayedServer(recorded=recorded, endpoint="", replay_endpoint=None)

    def open(self, endpoint: str, topic: bytes, replay_bind: str | None) -> None:
        now_s = time.monotonic()
        replay_endpoint = None
        try:
            endpoint = bind(self._publisher, endpoint, now_s)
            if replay_bind is not None:
                steps = self._config.buffer_steps
                self._replay = ReplaySocket(
                    self._context, topic, buffer_steps=steps, hwm=steps + 1, topic_in_replies=True
                )
                replay_endpoint = self._replay.open(replay_bind, now_s)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"cannot bind {endpoint!r}, {replay_bind!r}: expected endpoints such as "
                f"'tcp://127.0.0.1:*' ({error})"
            ) from error
        self.played = PlayedServer(
            recorded=self._recorded, endpoint=endpoint, replay_endpoint=replay_endpoint
        )

    def subscribers(self) -> int:
        """Subscriptions that stand."""
        with suppress(zmq.Again):
            while True:
                self._subscribers += 1 if self._publisher.recv(zmq.NOBLOCK)[:1] == _SUBSCRIBE else -1
        return self._subscribers

    def publish(self, frames: list[bytes]) -> bool:
        """False when a subscriber has no room for it now."""
        try:
            self._publisher.send_multipart(frames)
        except zmq.Again:
            return False
        return True

    def offer(self, batch: Batch) -> None:
        """Keeps a batch for replay; a number that runs backwards is a restart, which forgets the others."""
        if self._replay is not None:
            if batch.sequence < self._last:
                self._replay.clear()
            self._last = batch.sequence
            self._replay.append(batch.sequence, batch.payload)

    def close(self, linger_ms: int) -> None:
        if self._replay is not None:
            self._replay.close()
        self._publisher.close(linger=linger_ms)
