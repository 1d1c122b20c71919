"""Questions to a remote index: what its segments hold, as an excerpt that can be matched here."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Excerpt, remote_answer, remote_questions
from kvatlas.index.errors import DecodeError, RemoteIndexError
from kvatlas.index.remote.compact.lane_map import (
    LaneMap,
    mark_commands,
    mark_of,
    read_lane_map,
)
from kvatlas.index.remote.compact.server import Server
from kvatlas.index.remote.connection.commands import Command

_AGAIN_MAX = 3
_SAMPLE = 16
"""One question in so many tells which segments it used."""
_USED_MAX = 1024

Part = npt.NDArray[np.uint64]
_Question = tuple[int, list[bytes], bytes, Part]


class Asker:
    """Any thread. One round trip a question; three where the lanes have changed since the last."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lanes: LaneMap | None = None
        self._lives: dict[int, bytes] = {}
        self._used: dict[bytes, int] = {}
        self._n_asked = 0
        self._guard = threading.Lock()
        self.version_seen = 0

    def fetch(self, parts: Sequence[Part]) -> Excerpt:
        """What the index holds of these chains, each from its start.

        Raises RemoteIndexError when the server cannot be asked, or what it says is no answer.
        """
        server = self._server
        questions = [
            q
            for part in parts
            for q in remote_questions(part, server.names.n_buckets, server.names.namespace)
        ]
        commands = [self._command(question) for question in questions]
        lanes = self._lanes or self._read_lanes()
        answers: list[bytes] = []
        for again in range(_AGAIN_MAX):
            *answers, newest_id, newest_version = server.ask([*commands, *mark_commands(server)])
            mark = mark_of([newest_id, newest_version])
            self.version_seen = mark[1]
            # Data read before the map may lack what lanes of the map hold: only equal ones fit each other.
            if mark == lanes.mark or again + 1 == _AGAIN_MAX:
                break
            before, lanes = lanes, self._read_lanes()
            if lanes.id == before.id and lanes.phys_of == before.phys_of:
                break  # something else of the fleet has changed
            server.counts.matches_again += 1
        self._sample(questions)
        return self._excerpt(questions, answers, lanes)

    def take_used(self) -> dict[bytes, int]:
        """Names and buckets of segments in use, a sample, since the last call."""
        with self._guard:
            used, self._used = self._used, {}
        return used

    def forget(self) -> None:
        """What is known of lanes may be of another index."""
        self._lanes = None

    def _command(self, question: _Question) -> Command:
        bucket, segments, content, _keys = question
        return self._server.scripts.match.command([self._server.names.life(bucket), *segments], [content])

    def _read_lanes(self) -> LaneMap:
        self._lanes = read_lane_map(self._server)
        return self._lanes

    def _excerpt(self, questions: Sequence[_Question], answers: list[bytes], lanes: LaneMap) -> Excerpt:
        excerpts, keys_of = [], []
        is_whole = lanes.id is not None
        try:
            for (bucket, _segments, _content, keys), answer in zip(questions, answers, strict=True):
                life, excerpt, n_foreign = remote_answer(answer, len(keys), lanes.native, is_whole)
                self._server.counts.foreign_values += n_foreign
                if not self._is_same_life(bucket, life):
                    excerpt = remote_answer(answer, len(keys), lanes.native, False)[1]
                excerpts.append(excerpt)
                keys_of.append(keys)
            return Excerpt(keys_of, excerpts)
        except DecodeError as error:
            raise RemoteIndexError(f"{self._server.where}: {error}") from None

    def _is_same_life(self, bucket: int, life: bytes) -> bool:
        before = self._lives.get(bucket)
        if life == before and life:
            return True
        with self._guard:
            self._lives[bucket] = life
        if before is not None and before != life:
            self._server.counts.lives_changed += 1
        return before is None and bool(life)

    def _sample(self, questions: Sequence[_Question]) -> None:
        with self._guard:
            self._n_asked += 1
            if self._n_asked % _SAMPLE:
                return
            for bucket, segments, _content, _keys in questions:
                for name in segments:
                    if len(self._used) < _USED_MAX or name in self._used:
                        self._used[name] = bucket
                    else:
                        self._server.counts.touches_dropped += 1
