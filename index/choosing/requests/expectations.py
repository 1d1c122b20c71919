"""What workers are expected to hold beyond what their events have said, and who serves which session."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.candidates import CandidateSet
from kvatlas.index.choosing.history import RoutingHistory, Speculation
from kvatlas.index.choosing.sessions import Sessions
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.reading import Question

_SESSION_CHARACTERS_MAX = 63
"""So that no name is another's digest."""


class Notes(NamedTuple):
    """What was noted for one request, to be taken back where it fails."""

    slot: int
    speculative: int
    blind: int | None
    """None: the worker tells its events."""


class Expectations:
    """Speculation, routing history and sessions of one chooser. Any thread may call it."""

    def __init__(self, config: ChoosingConfig) -> None:
        self.speculation = Speculation(config)
        self.history = RoutingHistory(config)
        self.sessions = Sessions(config)

    def hints(
        self, candidates: CandidateSet, question: Question, now_s: float
    ) -> npt.NDArray[np.float32] | None:
        """[n] tokens that each candidate was sent of late, or ever where it tells nothing.

        None: nobody any.
        """
        keys, size = question.keys, question.block_size_tokens
        if len(keys) == 0:
            return None
        hints = self.speculation.hints(keys, candidates.slots, now_s, size)
        if candidates.blind is not None:
            sent = self.history.hints(keys, candidates.slots, now_s, size)
            if sent is not None:
                sent *= candidates.blind
                hints = sent if hints is None else np.maximum(hints, sent)
        return hints

    def session_row(self, ask: Ask, candidates: CandidateSet) -> int:
        """The row of the worker that has served the session; -1: none of these."""
        if not ask.session:
            return -1
        worker = self.sessions.get(_session_of(ask))
        return -1 if worker is None else candidates.rows.get(worker, -1)

    def note(
        self, ask: Ask, candidates: CandidateSet, row: int, question: Question, now_s: float
    ) -> Notes | None:
        """The request goes to this candidate. None: there is nothing to take back."""
        worker = candidates.candidates[row]
        if ask.session:
            self.sessions.put(_session_of(ask), worker.pod, worker.rank)
        if len(question.keys) == 0:
            return None
        slot = int(candidates.slots[row])
        blind = None
        if candidates.blind is not None and candidates.blind[row]:
            size = question.block_size_tokens
            self.history.limit(slot, worker.serves.serving.kv_tokens_max, size)
            blind = self.history.note(slot, question.keys, now_s)
        return Notes(slot, self.speculation.note(slot, question.keys, now_s), blind)

    def take_back(self, notes: Notes, keys: npt.NDArray[np.uint64]) -> None:
        """The request with these keys was not served."""
        self.speculation.failed(notes.slot, keys, notes.speculative)
        if notes.blind is not None:
            self.history.failed(notes.slot, keys, notes.blind)

    def forget(self, slot: int) -> None:
        """The worker has left."""
        self.speculation.forget(slot)
        self.history.forget(slot)


def _session_of(ask: Ask) -> Hashable:
    """What a session is remembered by: never longer than a few words, however long its name is."""
    named = ask.session
    if len(named) > _SESSION_CHARACTERS_MAX:
        named = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
    return ask.model, ask.tenant, named
