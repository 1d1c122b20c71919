"""Who may serve a request: the workers of its model that its filters leave, ready for native choices.

Made once for each filter and state of the fleet, then used for every request that asks the same.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from kvatlas.index._native import Candidates, LoadBook
from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.filters import Candidate, why_not, workers_of
from kvatlas.index.choosing.looking import Look, Looker
from kvatlas.index.choosing.serving import Role
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError
from kvatlas.index.scores import Worker

NOT_INDEXED = 0xFFFFFFFF
"""Number of a worker whose events nobody has heard."""
_MEASURED = -1.0
"""Discount of a worker whose match counts as far as its predictions have come true."""
_DISCOUNTS = {"EXACT": 1.0, "PARTIAL": 1.0, "DEGRADED": _MEASURED, "BLIND": 0.0}
_SETS_MAX = 256
_EXCLUDED_MAX = 64
_NO_LIMIT = float("inf")


class CandidateSet:
    """The workers that one kind of request may go to. Immutable."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        excluded: dict[str, str],
        slots: npt.NDArray[np.uint32],
        native: Candidates,
    ) -> None:
        self.candidates = candidates
        """Row by row, as in the native set."""
        self.excluded = excluded
        """Pods of the model that may not serve it, and why; at most 64."""
        self.slots = slots
        """[n] of the load book."""
        self.native = native
        self.workers: list[Worker] = [(candidate.pod, candidate.rank) for candidate in candidates]
        self.rows = {worker: row for row, worker in enumerate(self.workers)}
        self.row_of_number = {
            worker.view.number: row for row, worker in enumerate(candidates) if worker.view is not None
        }
        """By the index's number of the worker."""
        blind = np.array([candidate.truth == "BLIND" for candidate in candidates], np.bool_)
        self.blind = blind if blind.any() else None
        """[n] whose content is not known. None: of nobody."""

        self.roles = {worker.serves.serving.role for worker in candidates}

    def __len__(self) -> int:
        return len(self.candidates)

    def truth(self, row: int, *, has_extras: bool) -> str:
        """How far a candidate's match can be relied on; `has_extras`: of a prompt with salt or images."""
        worker = self.candidates[row]
        lacks = has_extras and worker.view is not None and worker.view.lacks_extras
        return "PARTIAL" if lacks and worker.truth == "EXACT" else worker.truth


class _Cached(NamedTuple):
    version: Hashable
    made: CandidateSet


class CandidateSets:
    """Makes and remembers sets. Any thread may call it."""

    def __init__(self, looker: Looker, book: LoadBook, config: ChoosingConfig) -> None:
        self._looker = looker
        self._book = book
        self._config = config
        self._lock = threading.Lock()
        self._sets: OrderedDict[Hashable, _Cached] = OrderedDict()
        self.slots: dict[str, set[int]] = {}
        """By pod: those that it was ever given, until `forget`."""
        self._forgotten = 0
        self.made = 0
        """How many had to be made."""

    def of(
        self,
        ask: Ask,
        look: Look,
        role: Role | None = None,
        without: frozenset[str] = frozenset(),
    ) -> CandidateSet:
        """The workers that may serve `ask` in this role; perhaps none."""
        wanted = None if ask.pods is None else _names(ask.pods)
        labels = frozenset(ask.labels.items()) if ask.labels else None
        near = frozenset(ask.near.items()) if ask.near else None
        key = (ask.model, ask.lora, role, wanted, labels, near, without)
        version = (look.version, self._looker.serving_version)
        cached = self._sets.get(key)
        if cached is not None and cached.version == version:
            return cached.made
        if wanted is not None and wanted is not ask.pods:  # each candidate is looked up in it
            ask = msgspec.structs.replace(ask, pods=wanted)
        forgotten = self._forgotten
        made = self._make(ask, look, role, without)
        with self._lock:
            self.made += 1
            if forgotten != self._forgotten:  # it may have the slots of a pod that has left meanwhile
                return made
            self._sets[key] = _Cached(version, made)
            self._sets.move_to_end(key)
            while len(self._sets) > _SETS_MAX:
                self._sets.popitem(last=False)
        return made

    def slot(self, pod: str, rank: int) -> int:
        """The book's number of a worker."""
        slot = self._book.slot(pod, rank)
        with self._lock:
            self.slots.setdefault(pod, set()).add(slot)
        return slot

    def forget(self, pod: str) -> set[int]:
        """A pod has left: its reservations end. Returns the slots that it had."""
        with self._lock:
            slots = self.slots.pop(pod, set())
        self._book.forget(pod)
        with self._lock:
            self._forgotten += 1
            self._sets.clear()
        return slots

    def _make(self, ask: Ask, look: Look, role: Role | None, without: frozenset[str]) -> CandidateSet:
        chosen: list[Candidate] = []
        excluded: dict[str, str] = {}
        for candidate in workers_of(ask.model, look.fleet, self._looker.serving_pods()):
            why = why_not(candidate, ask, role, without)
            if not why:
                chosen.append(candidate)
            elif len(excluded) < _EXCLUDED_MAX:
                excluded[candidate.pod] = why
        slots = np.array([self.slot(worker.pod, worker.rank) for worker in chosen], np.uint32)
        config = self._config
        native = Candidates(
            numbers=np.array(
                [worker.view.number if worker.view is not None else NOT_INDEXED for worker in chosen],
                np.uint32,
            ),
            slots=slots,
            discounts=np.array([_DISCOUNTS.get(worker.truth, 0.0) for worker in chosen], np.float32),
            limits=np.full(len(chosen), config.saturation_tokens or _NO_LIMIT, np.float64),
            requests_max=np.array([_requests_max(worker, config) for worker in chosen], np.uint32),
            rates=np.array(
                [worker.serves.serving.prefill_tokens_per_s or 0.0 for worker in chosen], np.float64
            ),
            offsets=np.array([_farness(worker, ask) * config.near_tokens for worker in chosen], np.float64),
        )
        return CandidateSet(chosen, excluded, slots, native)


def _names(pods: Collection[str]) -> frozenset[str]:
    try:
        return frozenset(pods)
    except TypeError as error:
        raise InputError(f"pods: expected a collection of names: {error}") from error


def _requests_max(worker: Candidate, config: ChoosingConfig) -> int:
    """Requests beyond which it takes no more; 0: no limit."""
    at_once = worker.serves.serving.requests_max
    return 0 if at_once is None else min(at_once + config.queue_requests_max, NOT_INDEXED)


def _farness(worker: Candidate, ask: Ask) -> int:
    """How many of the labels differ that had better be the same."""
    return sum(worker.serves.labels.get(label) != value for label, value in ask.near.items())
