"""A book with some workers, asked with few words: rows, worker numbers and slots are one here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from kvatlas.index._native import Candidates, Decision, LoadBook, Terms

BLOCK = 16
GPU, CPU = 0, 1
INF = float("inf")


def terms(
    *, kind: str = "weighted", overlap: float = 1.0, prefill: float = 1.0, decode: float = 0.25,
    temperature: float = 0.0, tier_costs: Sequence[float] = (0, 0.05, 0.2, 0.3, 1), hot_requests: int = 0,
    session_bonus_tokens: float = 0.0, reserves_prefill: bool = True, reserves_decode: bool = True,
) -> Terms:  # fmt: skip
    """Terms whose numbers are easy to follow: four tokens held weigh as much as one to prefill."""
    return Terms(
        kind=kind, overlap=overlap, prefill=prefill, decode=decode, temperature=temperature,
        tier_costs=tier_costs, hot_requests=hot_requests, session_bonus_tokens=session_bonus_tokens,
        reserves_prefill=reserves_prefill, reserves_decode=reserves_decode,
    )  # fmt: skip


class SmallFleet:
    """`n` pods of one rank, named pod0, pod1, ..."""

    def __init__(
        self,
        n: int,
        *,
        discounts: Sequence[float] | None = None,
        limits: Sequence[float] | None = None,
        offsets: Sequence[float] | None = None,
        requests_max: Sequence[int] | None = None,
        rates: Sequence[float] | None = None,
        reservations_max: int = 1000,
    ) -> None:
        self.n = n
        self.book = LoadBook(reservations_max)
        slots = np.array([self.book.slot(f"pod{i}", 0) for i in range(n)], np.uint32)
        self.candidates = Candidates(
            numbers=np.arange(n, dtype=np.uint32),
            slots=slots,
            discounts=np.array([1.0] * n if discounts is None else discounts, np.float32),
            limits=None if limits is None else np.array(limits, np.float64),
            offsets=None if offsets is None else np.array(offsets, np.float64),
            requests_max=None if requests_max is None else np.array(requests_max, np.uint32),
            rates=None if rates is None else np.array(rates, np.float64),
        )
        self._ids = itertools.count()
        self.last_id = ""

    def choose(
        self,
        prompt_tokens: int = 1000,
        *,
        held: Mapping[int, int | Mapping[int, int]] | None = None,
        partial: Sequence[int] = (),
        hints: Sequence[float] | None = None,
        by: Terms | None = None,
        costs: Sequence[float] | None = None,
        now_s: float = 0.0,
        output_tokens: int = 0,
        request_id: str | None = None,
        bonus_row: int = -1,
        reserve: bool = True,
        seed: int | None = None,
    ) -> Decision:
        """`held`: blocks by row, on the device or by tier. `partial`: rows whose last token is computed."""
        at = next(self._ids)
        name = self.last_id = f"request{at}" if request_id is None else request_id
        rows = dict(held or {})
        tiers = np.zeros((len(rows), 5), np.uint32)
        for place, blocks in enumerate(rows.values()):
            for tier, count in ({GPU: blocks} if isinstance(blocks, int) else blocks).items():
                tiers[place, tier] = count
        asked = {
            "now_s": now_s, "request_id": name, "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens, "workers": np.array(list(rows), np.uint32),
            "blocks": tiers.sum(axis=1, dtype=np.uint32), "tier_blocks": tiers,
            "partial_rows": tuple(list(rows).index(row) for row in partial), "block_size": BLOCK,
            "hints": None if hints is None else np.array(hints, np.float32), "bonus_row": bonus_row,
            "reserve": reserve, "seed": at if seed is None else seed,
        }  # fmt: skip
        by = by or terms()
        if costs is not None:
            return self.book.pick(self.candidates, np.array(costs, np.float64), terms=by, **asked)
        return self.book.choose(self.candidates, by, **asked)

    def give(self, row: int, tokens: int, *, output_tokens: int = 0, now_s: float = 0.0) -> str:
        """One more request for a worker: so many tokens to prefill. Returns its id."""
        self.last_id = f"request{next(self._ids)}"
        assert self.book.reserve(
            row, request_id=self.last_id, prefill_tokens=tokens, prompt_tokens=tokens,
            output_tokens=output_tokens, now_s=now_s,
        )  # fmt: skip
        return self.last_id

    def busy(self, row: int, tokens: int, seconds: float, *, from_s: float = 0.0, times: int = 1) -> float:
        """The worker prefills so many tokens in so long, some times. Returns when it is done."""
        for _ in range(times):
            request_id = self.give(row, tokens, now_s=from_s)
            from_s += seconds
            assert self.book.prefill_done(request_id, from_s)
            assert self.book.completed(request_id, from_s) is not None
        return from_s

    def load_back(
        self, row: int, loaded: Sequence[int], seconds: float, *, computed: int = 100, from_s: float = 0.0,
        times: int = 1, prefill_tokens: int = 300,
    ) -> float:  # fmt: skip
        """The worker loads so many tokens from cpu, disk and storage and computes some, some times."""
        for _ in range(times):
            self.last_id = f"request{next(self._ids)}"
            assert self.book.reserve(
                row, request_id=self.last_id, prefill_tokens=prefill_tokens,
                prompt_tokens=sum(loaded) + computed, output_tokens=0, cached_tokens=sum(loaded),
                loaded_tokens=loaded, now_s=from_s,
            )  # fmt: skip
            from_s += seconds
            assert self.book.prefill_done(self.last_id, from_s)
            assert self.book.completed(self.last_id, from_s) is not None
        return from_s

    def loads(self, now_s: float | None = None) -> list[tuple[float, float, int]]:
        """(prefill, decode, requests) of each."""
        found = self.book.snapshot(self.candidates, now_s)
        columns = (found.prefill_tokens, found.decode_tokens, found.requests)
        return list(zip(*(column.tolist() for column in columns), strict=True))
