"""What other routers have reserved, as they say: taken into the own book of loads, and out again."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kvatlas.actors.loads.sums import LoadRow, LoadSums, decode_sums
from kvatlas.index.errors import DecodeError, InputError

Slots = npt.NDArray[np.uint32]
Amounts = npt.NDArray[np.float64]
Sums = tuple[Slots, Amounts, Amounts, Slots]
"""Slots, prefill tokens, decode tokens and requests [n]."""

PEERS_MAX = 1024


class Book(Protocol):
    """A `LoadBook`, as far as it is shared."""

    def slot(self, pod: str, rank: int) -> int: ...
    def name(self, slot: int) -> tuple[str, int] | None: ...
    def changed(self) -> Sums: ...
    def own(self) -> Sums: ...
    def set_remote(
        self, router: int, slots: Slots, prefill: Amounts, decode: Amounts, requests: Slots, whole: bool
    ) -> None: ...
    def drop_remote(self, router: int) -> None: ...


class _Peer:
    """A router that is heard."""

    __slots__ = ("heard_s", "number", "place")

    def __init__(self, place: int, number: int, heard_s: float) -> None:
        self.place = place
        """By which the book knows it."""
        self.number = number
        """Of the last frame."""
        self.heard_s = heard_s


class Peers:
    """Keeps each peer's newest sums in the book. One thread at a time."""

    def __init__(self, book: Book, own_number: int, silent_s_max: float) -> None:
        self.counts: Counter[str] = Counter()
        """Frames `heard`, `bad_frames`, `old_frames`, `missed_frames`; `unknown_rows`; peers `silent`,
        `left`, `refused`."""
        self._book = book
        self._own_number = own_number
        self._silent_s_max = silent_s_max
        self._places = itertools.count(1)
        self._peers: dict[int, _Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, router: int) -> bool:
        return router in self._peers

    def take(self, frame: bytes, pods: Collection[str], now_s: float) -> None:
        """A frame of a peer; rows of pods that are not among `pods` are left out, and counted."""
        try:
            sums = decode_sums(frame)
        except DecodeError:
            self.counts["bad_frames"] += 1
            return
        if sums.router != self._own_number and self._is_next(sums, now_s):
            self.counts["heard"] += 1
            if sums.leaves:
                self.counts["left"] += 1
                self._drop(sums.router)
            else:
                self._apply(sums, pods)

    def expire(self, now_s: float) -> None:
        """Those that have been silent for too long have nothing reserved any more."""
        for router, peer in list(self._peers.items()):
            if now_s - peer.heard_s > self._silent_s_max:
                self.counts["silent"] += 1
                self._drop(router)

    def drop_all(self) -> None:
        """Nobody is heard any more."""
        for router in list(self._peers):
            self._drop(router)

    def _is_next(self, sums: LoadSums, now_s: float) -> bool:
        peer = self._peers.get(sums.router)
        if peer is None:
            if len(self._peers) >= PEERS_MAX:
                self.counts["refused"] += 1
                return False
            self._peers[sums.router] = _Peer(next(self._places), sums.number, now_s)
            return True
        if sums.number <= peer.number:
            self.counts["old_frames"] += 1
            return False
        self.counts["missed_frames"] += sums.number - peer.number - 1
        peer.number, peer.heard_s = sums.number, now_s
        return True

    def _apply(self, sums: LoadSums, pods: Collection[str]) -> None:
        known = [row for row in sums.rows if row.pod in pods]
        self.counts["unknown_rows"] += len(sums.rows) - len(known)
        if not known and not sums.whole:
            return
        place = self._peers[sums.router].place
        try:
            self._book.set_remote(place, *_columns(self._book, known), sums.whole)
        except InputError:  # more workers than a book takes, or sums that no load can be
            self.counts["bad_frames"] += 1

    def _drop(self, router: int) -> None:
        self._book.drop_remote(self._peers.pop(router).place)


def rows_of(book: Book, sums: Sums) -> tuple[LoadRow, ...]:
    """Sums by slot as others understand them: by name."""
    rows = []
    for slot, prefill, decode, requests in zip(*(column.tolist() for column in sums), strict=True):
        name = book.name(slot)
        if name is not None:
            rows.append(LoadRow(name[0], name[1], prefill, decode, requests))
    return tuple(rows)


def _columns(book: Book, rows: list[LoadRow]) -> Sums:
    return (
        np.array([book.slot(row.pod, row.rank) for row in rows], np.uint32),
        np.array([row.prefill_tokens for row in rows], np.float64),
        np.array([row.decode_tokens for row in rows], np.float64),
        np.array([row.requests for row in rows], np.uint32),
    )
