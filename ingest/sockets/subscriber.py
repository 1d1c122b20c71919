"""What model servers publish over ZeroMQ, handed to an atlas as it arrives; what is missing, asked for."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

import zmq

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.feed import FeedNames
from kvatlas.ingest.sockets.batch_sink import BatchSink
from kvatlas.ingest.sockets.connection import Socket
from kvatlas.ingest.sockets.descriptors import make_room
from kvatlas.ingest.sockets.receiver import Receiver
from kvatlas.ingest.sockets.replay_client import ReplayClient
from kvatlas.ingest.sockets.source import Source
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.sockets.subscriber_statistics import (
    SUMMED,
    SourceStatistics,
    SubscriberStatistics,
)
from kvatlas.ingest.sockets.waker import Waker

_SOCKETS_PER_SOURCE = 3
_SPARE_SOCKETS = 64
_DESCRIPTORS_PER_SOURCE = 4
_TELL_S = 0.005

_log = logging.getLogger(__name__)


class Errand:
    """Something that the receiving thread does for another one, which waits."""

    def __init__(self, run: Callable[[], object]) -> None:
        self._run = run
        self._done = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except ConfigError as error:
            self._error = error
        finally:
            self._done.set()

    def refuse(self) -> None:
        """Nobody is left to run it."""
        self._error = _stopped()
        self._done.set()

    def wait(self) -> None:
        """Raises ConfigError where it did, or was refused."""
        self._done.wait()
        if self._error is not None:
            raise self._error


class Subscriber:
    """SUB sockets of any number of sources, a thread that drains them into an atlas, one that replays.

    A source is a publisher to connect to, given as a `SourceConfig` or just its endpoint, or a socket
    that listens for many. Methods may be called from any thread, but not from the atlas's callbacks.

    What bounds what: `messages_max` what waits of a publisher, `replay_bytes_max` what waits of all
    answers, the atlas's `StreamLimits` what waits for a replay. What is dropped is a gap, which heals
    where there is a replay socket. The bounds of a message's size hold for each of its frames.
    Raises ConfigError when a source cannot be used.
    """

    def __init__(
        self,
        atlas: BatchSink,
        sources: Sequence[SourceConfig | str] = (),
        config: SubscriberConfig | None = None,
    ) -> None:
        self.config = config or SubscriberConfig()
        self._atlas = atlas
        self._lock = threading.Lock()  # of errands, and whether somebody will run them
        self._errands: deque[Errand] = deque()
        self._runs = False
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._n_sources = self._n_changes = 0
        self._tell_at_s = 0.0
        self._removed = dict.fromkeys(SUMMED, 0)
        self._context: zmq.Context[Socket] = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, self.config.sources_max * _SOCKETS_PER_SOURCE + _SPARE_SOCKETS)
        self._waker = Waker()
        self._client = ReplayClient(self._context, self.config, self._waker.wake)
        self._receiver = Receiver(self._context, self.config, self._client, self._waker)
        self._thread = threading.Thread(target=self._run, name="kvatlas-subscriber", daemon=True)
        try:
            for source in sources:
                self.add(source)
        except ConfigError:
            self.stop()
            raise

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Of the sources in their order, with the ports that the system chose where they were left open."""
        return tuple(source.endpoint for source in self._receiver.sources.copy())

    def start(self) -> Subscriber:
        """Start draining; returns itself."""
        with self._lock:
            self._runs = True
        self._client.start()
        self._thread.start()
        return self

    def add(self, source: SourceConfig | str) -> str:
        """One more source; returns its endpoint, with the port that the system chose.

        Raises ConfigError when it cannot be used, is there already, or is one too many.
        """
        config = SourceConfig(endpoint=source) if isinstance(source, str) else source
        added: list[str] = []
        self._do(lambda: added.append(self._add(config)))
        return added[0]

    def remove(self, endpoint: str) -> None:
        """Close a source, by what `add` or `endpoints` gave. Its workers are not heard of any more.

        Raises ConfigError when there is none.
        """
        self._do(lambda: self._remove(endpoint))

    def stop(self) -> None:
        """Stop draining and close the sockets; what still waits in them is dropped. Twice is fine.

        Raises what ended a thread early, if something that is no KvatlasError came from the atlas.
        """
        self._stopping.set()
        self._waker.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._client.stop()
        if not self._context.closed:
            self._receiver.close()
            self._context.destroy(linger=0)  # with what a thread that died has left open
            self._waker.close()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def statistics(self) -> SubscriberStatistics:
        sources = tuple(source.statistics() for source in self._receiver.sources.copy())
        failure = self._failure
        return SubscriberStatistics(
            **{name: self._removed[name] + sum(getattr(one, name) for one in sources) for name in SUMMED},
            sources=sources,
            replay=self._receiver.desk.statistics(),
            failure=None if failure is None else f"{type(failure).__name__}: {failure}",
        )

    def wait_until(self, condition: Callable[[SubscriberStatistics], bool], timeout_s: float) -> bool:
        """Whether `condition` came true within `timeout_s`, of the statistics or of anything else.

        It is looked at whenever something has come, and with each tick.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            seen = self._n_changes
            if condition(self.statistics()):
                return True
            with self._changed:  # not while the condition is looked at: the receiving thread needs it
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._failure is not None:
                    return False
                if self._n_changes == seen:
                    self._changed.wait(left_s)

    def __enter__(self) -> Subscriber:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _do(self, work: Callable[[], object]) -> None:
        """Have the receiving thread do it; before that runs, this one does."""
        errand = Errand(work)
        with self._lock:
            if self._runs:
                self._errands.append(errand)
                self._waker.wake()
            elif self._stopping.is_set() or self._failure is not None:
                raise _stopped()
            else:
                errand.run()
        errand.wait()

    def _add(self, config: SourceConfig) -> str:
        if len(self._receiver.sources) >= self.config.sources_max:
            raise ConfigError(f"sources: expected at most {self.config.sources_max}, got one beyond")
        if any(source.config.endpoint == config.endpoint for source in self._receiver.sources) and not (
            config.bind and config.endpoint.endswith("*")
        ):
            raise ConfigError(f"sources: expected each endpoint once, got {config.endpoint!r} again")
        make_room(_DESCRIPTORS_PER_SOURCE * (len(self._receiver.sources) + 1 + self.config.replays_at_once))
        feed = self._atlas.feed(
            FeedNames(pod=config.pod, model=config.model, rank=config.rank, overrides=config.overrides_topic),
            config.has_replay_of,
            introduces=config.has_replay and not config.bind,
        )
        self._n_sources += 1
        source = Source(self._context, self._n_sources, config, self.config, feed)
        self._receiver.add(source)
        return source.endpoint

    def _remove(self, endpoint: str) -> None:
        for source in self._receiver.sources:
            if source.endpoint == endpoint:
                self._receiver.remove(source)
                self._count_removed(source.statistics())
                return
        raise ConfigError(f"sources: expected the endpoint of one, got {endpoint!r}")

    def _count_removed(self, statistics: SourceStatistics) -> None:
        for name in SUMMED:
            if name != "connections":
                self._removed[name] += getattr(statistics, name)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                while self._errands:
                    self._errands.popleft().run()
                if self._receiver.step():
                    self._tell()
                if self._client.failure is not None:
                    raise self._client.failure
        except BaseException as error:  # for stop(): in a thread it would only be printed
            _log.exception("the subscriber's thread has ended")
            self._failure = error
            self._notify()
        finally:
            self._end()

    def _tell(self) -> None:
        """Have those who wait look; under load not each time, they look at everything."""
        now_s = time.monotonic()
        if now_s >= self._tell_at_s or not self._receiver.is_busy:
            self._tell_at_s = now_s + _TELL_S
            self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._n_changes += 1
            self._changed.notify_all()

    def _end(self) -> None:
        """Nobody runs errands any more; the workers are not heard of."""
        with self._lock:
            self._runs = False
        while self._errands:
            self._errands.popleft().refuse()
        for source in self._receiver.sources:
            source.give_up()


def _stopped() -> ConfigError:
    return ConfigError("subscriber: expected one that runs, got one that has stopped")
