"""A recording told to an atlas, and what both ways of playing share: pace and counts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import msgspec

from kvatlas.index.errors import ConfigError, KvatlasError
from kvatlas.ingest.recording.order import Batch, Selection, told
from kvatlas.ingest.recording.reader import RecordingReader
from kvatlas.ingest.recording.records import Source

_NS = 1_000_000_000
_NAMED_TOPIC = b"kv@"
_WAIT_S_MAX = 3600.0  # an event refuses to wait for years


class Sink(Protocol):
    """What takes the batches: an `Atlas`."""

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None: ...


class PlayStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What was played so far."""

    played: int
    """Batches told to the atlas, or messages published."""
    answered: int
    """Batches that replay sockets had answered: told first to an atlas, offered for replay by sockets."""
    known: int
    """Not told, or offered, again: an answer had them."""
    refused: int
    """Batches that the atlas raised a KvatlasError for."""
    malformed: int
    """Messages that were not topic, eight bytes of sequence and payload; sockets publish them too."""
    lost: int
    """Messages that the recorder had no room for."""
    unknown_source: int
    """Messages left out: the block that names their source is damaged."""
    damaged_blocks: int
    """Blocks of the recording that could not be read."""
    reached_s: float
    """Where in the recording it is."""


class Pace:
    """When to play: at `speed` times the speed of the recording, or without waiting (None).

    Raises ConfigError for a speed that is not above 0.
    """

    def __init__(
        self,
        speed: float | None,
        stopping: threading.Event | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise ConfigError(f"speed: expected a number above 0, or none for full speed, got {speed}")
        self._speed = speed
        self._clock_s = clock_s
        self._stopping = threading.Event() if stopping is None else stopping
        self._wait = self._stopping.wait if wait is None else wait
        self._began: tuple[float, int] | None = None

    def keep(self, time_ns: int) -> bool:
        """Waits until a message of that time is due, the first one is at once; False when stopped."""
        if self._speed is not None:
            if self._began is None:
                self._began = self._clock_s(), time_ns
            began_s, began_ns = self._began
            due_s = began_s + (time_ns - began_ns) / _NS / self._speed
            while (left_s := due_s - self._clock_s()) > 0 and not self._wait(min(left_s, _WAIT_S_MAX)):
                pass
        return not self._stopping.is_set()


class AtlasPlayer:
    """Tells an atlas what was recorded: in each session the answers of replay sockets first, then live.

    Messages whose topic is not of the form `kv@<pod>@<model>` are told as of pod HOST:PORT of their
    source and `unnamed_model`. `play` is called from one thread, once; `stop` and `statistics` from any.
    """

    def __init__(
        self,
        reader: RecordingReader,
        atlas: Sink,
        *,
        speed: float | None = None,
        selection: Selection | None = None,
        unnamed_model: str = "unnamed",
    ) -> None:
        self._reader = reader
        self._atlas = atlas
        self._selection = selection
        self._unnamed_model = unnamed_model
        self._stopping = threading.Event()
        self._pace = Pace(speed, self._stopping)
        self._counts: Counter[str] = Counter()
        self._reached_ns = 0

    def play(self, look: Callable[[], object] = lambda: None) -> PlayStatistics:
        """Returns at the end of the recording, or soon after `stop`; calls `look` after each message."""
        for one in told(self._reader, self._selection, self._counts):
            # An answer is history: it is told at once, when its session begins.
            if not one.is_answer and not self._pace.keep(one.message.time_ns):
                break
            self._reached_ns = max(self._reached_ns, one.message.time_ns)
            if one.batch is None:
                self._counts["malformed"] += 1
            elif one.is_known:
                self._counts["known"] += 1
            else:
                self._tell(one.source, one.batch, "answered" if one.is_answer else "played")
            look()
        return self.statistics()

    def _tell(self, source: Source, batch: Batch, what: str) -> None:
        topic = batch.topic
        if not topic.startswith(_NAMED_TOPIC):
            place = source.endpoint.partition("://")[2].replace("@", "")
            topic = f"kv@{place}@{self._unnamed_model}".encode()
        try:
            self._atlas.ingest(topic, batch.sequence, batch.payload)
        except KvatlasError:
            self._counts["refused"] += 1
        else:
            self._counts[what] += 1

    def stop(self) -> None:
        """Ends `play` soon."""
        self._stopping.set()

    def statistics(self) -> PlayStatistics:
        return statistics_of(self._counts, self._reader, self._reached_ns)


def statistics_of(counts: Counter[str], reader: RecordingReader, reached_ns: int) -> PlayStatistics:
    """What a player has counted."""
    return PlayStatistics(
        played=counts["played"],
        answered=counts["answered"],
        known=counts["known"],
        refused=counts["refused"],
        malformed=counts["malformed"],
        lost=counts["lost"],
        unknown_source=counts["unknown_source"],
        damaged_blocks=reader.damaged_blocks,
        reached_s=reached_ns / _NS,
    )
