"""What a request is on a worker that somebody else picked among the candidates of its choice."""

from __future__ import annotations

import numpy as np

from kvatlas.index.choosing.policies.judge import Case
from kvatlas.index.choosing.receipts.record import Record
from kvatlas.index.choosing.requests.flights import Leg
from kvatlas.index.scores import Worker

_SURE = ("EXACT", "PARTIAL")
"""Truths by which a worker can reuse what the index says."""


def fill_leg(leg: Leg, record: Record | None, worker: Worker, slot: int, prompt_tokens: int) -> None:
    """`leg`: a new one; the worker does all of the request. `record`: of its choice; None: it was made
    elsewhere, or is no longer kept."""
    leg.pod, leg.rank = worker
    leg.slot = slot
    leg.prefill_tokens = leg.prompt_tokens = prompt_tokens
    case, verdict = (record.case, record.verdict) if record is not None else (None, None)
    if case is None or verdict is None:
        return
    leg.output_tokens = case.output_tokens
    row = case.candidates.rows.get(worker)
    if row is not None:
        leg.prefill_tokens = max(prompt_tokens - int(verdict.decision.credits[row]), 0)
        predict(leg, case, row)


def predict(leg: Leg, case: Case, row: int) -> None:
    """What the index alone says the candidate will reuse and load, where that can be relied on."""
    view = case.candidates.candidates[row].view
    if view is None or case.candidates.truth(row, has_extras=case.question.has_extras) not in _SURE:
        return
    matches, size = case.matches, case.question.block_size_tokens
    found = np.flatnonzero(matches.workers == view.number)
    tokens, loaded = 0, [0, 0, 0]
    if len(found):
        at = int(found[0])
        tokens = min(int(matches.blocks[at]) * size, case.prompt_tokens) - (at in matches.partial_rows)
        _, *loaded, unknown = (int(blocks) * size for blocks in matches.tier_blocks[at])
        if unknown:
            return
    if case.hints is None or case.hints[row] <= tokens:
        leg.predicted_tokens, leg.loaded_tokens = max(tokens, 0), loaded


def best_rank(record: Record | None, pod: str) -> int:
    """The cheapest of a pod's ranks."""
    case, verdict = (record.case, record.verdict) if record is not None else (None, None)
    if case is None or verdict is None:
        return 0
    costs = verdict.decision.costs
    rows = [row for row, worker in enumerate(case.candidates.candidates) if worker.pod == pod]
    return case.candidates.candidates[min(rows, key=lambda row: float(costs[row]))].rank if rows else 0
