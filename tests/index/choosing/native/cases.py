"""One random request for the native book and for its model, and how their answers must agree."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest

from kvatlas.index._native import Candidates, Decision, LoadBook, Terms
from tests.models.loads import GONE, LoadModel, Weights, rates

BLOCK = 16


def whole(tokens: float) -> int:
    """Rounded as the book does: halves up."""
    return math.floor(tokens + 0.5)


class Expected:
    """What the model says of each candidate."""

    def __init__(self, n: int) -> None:
        self.states = [0] * n
        self.index, self.cached, self.credits, self.costs = ([0.0] * n for _ in range(4))
        self.loaded: list[tuple[int, int, int] | None] = [None] * n
        """From cpu, disk and storage; None: not for sure."""
        self.in_seconds = False


class Case:
    """One request, its candidates and weights."""

    def __init__(
        self, rng: random.Random, slots: Sequence[int], known_rates: float, load_tier: int | None = None
    ) -> None:
        """`load_tier`: most of the prompt is to be loaded from there, for sure."""
        n = len(slots)
        self.slots = list(slots)
        self.prompt, self.output = rng.choice([0, 40, 1000, 8192]), rng.choice([0, 64])
        self.tiers = {
            row: [rng.choice([0, 0, 1, 20]) for _ in range(5)]
            for row in rng.sample(range(n), rng.randint(0, n))
        }
        self.partial = [row for row in self.tiers if rng.random() < 0.1]
        self.hints = [rng.choice([0.0, 0.0, 320.0, 5000.0]) for _ in slots] if rng.random() < 0.5 else None
        self.discounts = [rng.choice([1.0, 1.0, 0.5, 0.0, -1.0]) for _ in slots]
        self.requests_max = [rng.choice([0, 0, 2, 10]) for _ in slots]
        self.limits = [rng.choice([float("inf"), float("inf"), 3000.5]) for _ in slots]
        self.offsets = [rng.choice([0.0, 0.0, 512.0]) for _ in slots]
        self.rates = [rng.choice([500.0, 4000.0]) if rng.random() < known_rates else 0.0 for _ in slots]
        self.bonus_row = rng.randrange(-1, n)
        self.reserves_prefill, self.reserves_decode = rng.choice(
            [(True, True), (True, True), (True, False), (False, True)]
        )
        self.weights = Weights(
            rng.choice([0.0, 1.0, 2.0]),
            rng.choice([0.0, 1.0]),
            rng.choice([0.0, 0.25]),
            (0, 0.05, 0.2, 0.3, 1),
            rng.choice([0, 0, 2]),
            rng.choice([0.0, 256.0]),
        )
        if load_tier is not None:
            self.prompt, self.hints, self.discounts = 8192, None, [1.0] * n
            self.tiers = {row: [0] * 5 for row in range(n)}
            for tiers in self.tiers.values():
                tiers[load_tier] = rng.choice([300, 400, 512])
        self.temperature = rng.choice([0.0, 0.0, 0.5])

    def ask(self, book: LoadBook, now_s: float, name: str, reserve: bool, seed: int) -> Decision:
        n, w = len(self.slots), self.weights
        candidates = Candidates(
            np.arange(100, 100 + n, dtype=np.uint32),
            np.array(self.slots, np.uint32),
            np.array(self.discounts, np.float32),
            np.array(self.limits, np.float64),
            np.array(self.offsets, np.float64),
            np.array(self.requests_max, np.uint32),
            np.array(self.rates, np.float64),
        )
        by = Terms(
            overlap=w.overlap,
            prefill=w.prefill,
            decode=w.decode,
            temperature=self.temperature,
            tier_costs=w.tier_costs,
            hot_requests=w.hot_requests,
            session_bonus_tokens=w.bonus,
            reserves_prefill=self.reserves_prefill,
            reserves_decode=self.reserves_decode,
        )
        tiers = np.array(list(self.tiers.values()), np.uint32).reshape(-1, 5)
        rows = list(self.tiers)
        return book.choose(
            candidates,
            by,
            now_s=now_s,
            request_id=name,
            prompt_tokens=self.prompt,
            output_tokens=self.output,
            workers=np.array(rows, np.uint32) + np.uint32(100),
            blocks=tiers.sum(axis=1, dtype=np.uint32),
            tier_blocks=tiers,
            partial_rows=tuple(rows.index(row) for row in self.partial),
            block_size=BLOCK,
            hints=None if self.hints is None else np.array(self.hints, np.float32),
            bonus_row=self.bonus_row,
            reserve=reserve,
            seed=seed,
        )

    def expect(self, model: LoadModel, now_s: float) -> Expected:
        out = Expected(len(self.slots))
        seconds = rates(model, self.slots, [1 / rate if rate else 0.0 for rate in self.rates], now_s)
        out.in_seconds = seconds is not None
        for row, slot in enumerate(self.slots):
            if slot not in model.workers:
                out.states[row] = GONE
                continue
            worker = model.workers[slot]
            costs = worker.tier_costs(self.weights.tier_costs, seconds[row] if seconds else 0.0, now_s)
            self._credit(out, row, worker.accuracy, costs)
            load = model.load(slot, now_s, 1 / self.rates[row] if self.rates[row] else 0.0)
            w = self.weights
            others = w.prefill * load.prefill + w.decode * load.decode
            full = 0 < self.requests_max[row] <= load.requests
            out.states[row] = int(full or others >= self.limits[row])
            worth = w.hot_requests / load.requests if load.requests > w.hot_requests > 0 else 1.0
            cost = w.overlap * (self.prompt - out.credits[row] * worth) + others + self.offsets[row]
            cost -= w.bonus if row == self.bonus_row else 0.0
            out.costs[row] = cost * seconds[row] if seconds is not None else cost
        return out

    def _credit(self, out: Expected, row: int, accuracy: float, tier_costs: list[float]) -> None:
        tiers = self.tiers.get(row, [0] * 5) if self.discounts[row] != 0 else [0] * 5
        loss = 1 if row in self.partial else 0
        worth = sum(n * BLOCK * (1 - cost) for n, cost in zip(tiers, tier_costs, strict=True))
        share = accuracy if self.discounts[row] < 0 else self.discounts[row]
        hint = min(
            self.hints[row] if self.hints is not None else 0.0, max(self.prompt - 1, 0) // BLOCK * BLOCK
        )
        out.index[row] = max(min(sum(tiers) * BLOCK, self.prompt) - loss, 0)
        out.cached[row] = max(out.index[row], hint)
        if self.discounts[row] == 1 and whole(out.cached[row]) == whole(out.index[row]) and not tiers[4]:
            out.loaded[row] = (tiers[1] * BLOCK, tiers[2] * BLOCK, tiers[3] * BLOCK)
        out.credits[row] = max(max(min(worth, self.prompt) - loss, 0) * share, hint)

    def check(self, decision: Decision, expected: Expected) -> int | None:
        """The row, if it is one that may be chosen."""
        live = [row for row, state in enumerate(expected.states) if state != GONE]
        assert decision.states.tolist() == expected.states
        assert decision.in_seconds == expected.in_seconds
        for row in live:
            assert decision.credits[row] == pytest.approx(expected.credits[row], rel=1e-5, abs=1e-3)
            assert decision.costs[row] == pytest.approx(expected.costs[row], rel=1e-5, abs=1e-3)
        open_rows = [row for row in live if expected.states[row] == 0]
        if not open_rows:
            assert decision.row == -1 and decision.retry_after_s > 0
            return None
        row = decision.row
        assert row in open_rows and decision.slot == self.slots[row]
        least = min(expected.costs[row] for row in open_rows)
        assert self.temperature > 0 or expected.costs[row] <= least + 2e-6 + abs(least) * 1e-6
        assert decision.cached_tokens == whole(expected.cached[row])
        assert decision.index_tokens == whole(expected.index[row])
        return row
