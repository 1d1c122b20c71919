"""Explains a score: what each worker holds of a prompt, block by block, and why the chain ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from kvatlas.index.groups import GroupKind
from kvatlas.index.keys import TokenIds
from kvatlas.index.scores import TIERS, Explanation, Match, WorkerExplanation
from kvatlas.ingest.fleet_state import ModelState
from kvatlas.ingest.worker_state import WorkerState

Held = dict[tuple[str, int, int] | str, int]
"""Tier bits of one block, by lane or store."""


def explain(
    model: str,
    state: ModelState | None,
    token_ids: TokenIds,
    found: Sequence[Held],
    weights: npt.NDArray[np.float64],
    pods: Collection[str] | None,
    matches: Sequence[Match],
) -> Explanation:
    """`found` is what the index holds of each block of the prompt, `matches` what its engine reuses."""
    matched = {(match.pod, match.rank): match for match in matches}
    workers = (
        [] if state is None else [w for w in list(state.workers.values()) if pods is None or w.pod in pods]
    )
    explained = [
        _explain_worker(worker, found, weights, matched.get((worker.pod, worker.rank))) for worker in workers
    ]
    return Explanation(
        model=model,
        prompt_tokens=count_tokens(token_ids),
        prompt_blocks=len(found),
        block_size_tokens=state.block_size if state is not None else 0,
        workers=tuple(sorted(explained, key=lambda worker: (-worker.score, worker.pod, worker.rank))),
        note=_note(model, state, len(found)),
    )


def count_tokens(token_ids: TokenIds) -> int:
    """Tokens of a prompt; bytes and views of bytes hold four bytes a token."""
    if isinstance(token_ids, (bytes, bytearray, memoryview)):
        view = memoryview(token_ids)
        return view.nbytes // 4 if view.itemsize == 1 else len(view)
    return len(token_ids)


def _note(model: str, state: ModelState | None, n_blocks: int) -> str:
    if state is None:
        return f"no server has announced a model {model!r}"
    if state.keyspace is None:
        return f"the block size of {model!r} is not known yet: no dense block has been announced"
    if n_blocks == 0:
        return f"the prompt has no full block of {state.block_size} tokens"
    return ""


def _explain_worker(
    worker: WorkerState, found: Sequence[Held], weights: npt.NDArray[np.float64], match: Match | None
) -> WorkerExplanation:
    tiers: dict[str, int] = {}
    score = 0.0
    n_blocks = 0
    for held in found:
        tier = _best_tier(worker, held)
        if tier is None:
            break
        n_blocks += 1
        tiers[TIERS[tier]] = tiers.get(TIERS[tier], 0) + 1
        score += float(weights[tier])
    return WorkerExplanation(
        pod=worker.pod,
        rank=worker.rank,
        blocks=n_blocks,
        tier_blocks=tiers,
        score=score,
        ends_at_block=n_blocks,
        reason=_reason(worker, found, n_blocks),
        cached_tokens=match.cached_tokens if match is not None else 0,
        truth=worker.truth.state,
        doubts=tuple(f"{doubt.says} (until {doubt.heals})" for doubt in worker.truth.reasons),
        stores=tuple(sorted(worker.stores)),
    )


def _best_tier(worker: WorkerState, held: Held) -> int | None:
    """The tier that counts for a block: the slowest of the groups' best, or a store's."""
    masks = [held.get((worker.pod, worker.rank, group), 0) for group in _full_groups(worker)]
    if not masks:
        return None
    stored = 0
    for name in worker.stores:
        stored |= held.get(name, 0)
    own = max(_lowest_bit(mask) for mask in masks) if all(masks) else len(TIERS)
    best = min(own, _lowest_bit(stored) if stored else len(TIERS))
    return best if best < len(TIERS) else None


def _full_groups(worker: WorkerState) -> list[int]:
    groups = worker.groups.items()
    return [number for number, group in groups if GroupKind.of(group.kind) is GroupKind.FULL]


def _lowest_bit(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _reason(worker: WorkerState, found: Sequence[Held], at: int) -> str:
    if at == len(found):
        return "the prompt's full blocks end here" if found else "the prompt has no full block"
    if not _full_groups(worker):
        return "the worker has no full-attention group"
    held = found[at]
    if any(held.get((worker.pod, worker.rank, group)) for group in _full_groups(worker)):
        return f"block {at} is held in some of the worker's attention groups only"
    others = {lane if isinstance(lane, str) else lane[0] for lane in held}
    if not others:
        return f"block {at} is held nowhere"
    return f"block {at} is not held here, but by {', '.join(sorted(others)[:3])}" + (
        f" and {len(others) - 3} more" if len(others) > 3 else ""
    )
