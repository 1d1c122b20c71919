"""Pods in a file that is read again when it changes."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.config import FileWatchConfig
from kvatlas.ingest.discovery.pod_file import parse_pods
from kvatlas.ingest.discovery.pods import DiscoveredPod, PodSink, WatchStatistics

_READ_AGAIN_S = 30.0  # whatever size and time say: both can stay when content changes
_COMPLAINT_CHARACTERS = 300

_log = logging.getLogger(__name__)


class _Mark(msgspec.Struct, frozen=True):
    """What changes when a file is written or replaced."""

    inode: int
    size: int
    time_ns: int


class WatchedFile:
    """A watch that looks at a file every `look_every_s`.

    A file that is missing, half written or wrong changes nothing: what was known stays, and
    `statistics().failing` says why. It is taken as a whole or not at all.
    """

    def __init__(self, config: FileWatchConfig, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock_s = clock_s
        self._sink: PodSink | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kvatlas-pod-file", daemon=True)
        self._counts: Counter[str] = Counter()
        self._failing: str | None = "not read yet"
        self._pods = 0
        self._seen: _Mark | None = None  # at the last look
        self._seen_s = 0.0  # since when it is so
        self._read: _Mark | None = None  # when it was read
        self._read_s = 0.0
        self._content: bytes | None = None

    @property
    def name(self) -> str:
        return self._config.name

    def start(self, sink: PodSink) -> None:
        self._sink = sink
        self.look(settled=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def statistics(self) -> WatchStatistics:
        return WatchStatistics(
            name=self.name, pods=self._pods, failing=self._failing, counts=dict(self._counts)
        )

    def look(self, *, settled: bool = False) -> None:
        """Read the file if it has changed and has stayed the same for `settle_s`; `settled`: at once."""
        now_s = self._clock_s()
        try:
            mark = self._mark()
            if mark != self._seen:
                self._seen, self._seen_s = mark, now_s
            if mark == self._read and now_s < self._read_s + _READ_AGAIN_S:
                return
            if not settled and now_s < self._seen_s + self._config.settle_s:
                return
            content = self._bytes()
            if self._mark() != mark:
                return  # written meanwhile: the next look sees to it
            self._read, self._read_s = mark, now_s
            if content != self._content:
                self._content = content
                self._take(parse_pods(content, self.name))
        except OSError as error:
            self._read = self._content = None
            self._fail(f"cannot read {self._config.path!r}: {error.strerror or error}")
        except InputError as error:
            self._fail(f"{self._config.path}: {error}")

    def _take(self, pods: list[DiscoveredPod]) -> None:
        self._failing = None
        self._pods = len(pods)
        self._counts["read"] += 1
        if self._sink is not None and not self._stopping.is_set():
            self._sink.replace(pods)

    def _fail(self, why: str) -> None:
        why = why[:_COMPLAINT_CHARACTERS]
        if why != self._failing:
            self._counts["not_read"] += 1
            _log.warning("discovery: %s; what was known of its pods stays", why)
        self._failing = why

    def _mark(self) -> _Mark:
        found = os.stat(self._config.path)
        if not stat.S_ISREG(found.st_mode):
            raise InputError("expected a file, got a folder or another thing")
        if found.st_size > self._config.file_bytes_max:
            raise InputError(f"expected at most {self._config.file_bytes_max} bytes, got {found.st_size}")
        return _Mark(found.st_ino, found.st_size, found.st_mtime_ns)

    def _bytes(self) -> bytes:
        with open(self._config.path, "rb") as file:
            content = file.read(self._config.file_bytes_max + 1)
        if len(content) > self._config.file_bytes_max:  # it has grown since
            raise InputError(f"expected at most {self._config.file_bytes_max} bytes, got more")
        return content

    def _run(self) -> None:
        pause_s = min(self._config.look_every_s, self._config.settle_s or self._config.look_every_s)
        while not self._stopping.wait(pause_s if self._is_settling() else self._config.look_every_s):
            self.look()

    def _is_settling(self) -> bool:
        return self._seen != self._read
