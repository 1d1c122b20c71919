"""Explains a score: what each worker holds of a prompt, block by block, and why the chain ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kvatlas.index.groups import GroupKind
from kvatlas.index.scores import TIERS, Explanation, Match, Scores, WorkerExplanation
from kvatlas.index.view import WorkerView

if TYPE_CHECKING:
    from kvatlas.index.reading import LaneName, ModelSpace

Held = Mapping[int, int]
"""Tier bits of one block, by lane."""


def explain(
    model: str,
    space: ModelSpace | None,
    workers: Sequence[WorkerView],
    store_lanes: Mapping[str, int],
    lane_names: Mapping[int, LaneName],
    found: Sequence[Held],
    *,
    weights: npt.NDArray[np.float64],
    prompt_tokens: int,
    scores: Scores,
) -> Explanation:
    """`found` is what the index holds of each block of the prompt, `scores` what its engines reuse."""
    matched = {(match.pod, match.rank): match for match in scores.matches}
    explained = []
    for view in workers:
        held_by = _Holder(view, store_lanes)
        match = matched.get((view.pod, view.rank))
        explained.append(_explain_worker(view, held_by, lane_names, found, weights, match))
    return Explanation(
        model=model,
        prompt_tokens=prompt_tokens,
        prompt_blocks=len(found),
        block_size_tokens=space.block_size if space is not None else 0,
        workers=tuple(sorted(explained, key=lambda worker: (-worker.score, worker.pod, worker.rank))),
        note=_note(model, space, len(found), scores.is_whole),
    )


def _note(model: str, space: ModelSpace | None, n_blocks: int, is_whole: bool) -> str:
    if space is None:
        return f"no server has announced a model {model!r}"
    if space.keyspace is None:
        return f"the block size of {model!r} is not known yet: no dense block has been announced"
    if n_blocks == 0:
        return f"the prompt has no full block of {space.block_size} tokens"
    return "" if is_whole else "a shard of the prompt is missing or not whole yet: workers may hold more"


class _Holder:
    """The lanes that count for a worker."""

    def __init__(self, view: WorkerView, store_lanes: Mapping[str, int]) -> None:
        self.full = [group.lane for group in view.groups if group.kind is GroupKind.FULL]
        self._stores = [store_lanes[name] for name in view.stores if name in store_lanes]

    def best_tier(self, held: Held) -> int | None:
        """The tier that counts for a block: the slowest of the groups' best, or a store's."""
        masks = [held.get(lane, 0) for lane in self.full]
        if not masks:
            return None
        stored = 0
        for lane in self._stores:
            stored |= held.get(lane, 0)
        own = max(_lowest_bit(mask) for mask in masks) if all(masks) else len(TIERS)
        best = min(own, _lowest_bit(stored) if stored else len(TIERS))
        return best if best < len(TIERS) else None


def _lowest_bit(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _explain_worker(
    view: WorkerView,
    holder: _Holder,
    lane_names: Mapping[int, LaneName],
    found: Sequence[Held],
    weights: npt.NDArray[np.float64],
    match: Match | None,
) -> WorkerExplanation:
    tiers: dict[str, int] = {}
    score = 0.0
    n_blocks = 0
    for held in found:
        tier = holder.best_tier(held)
        if tier is None:
            break
        n_blocks += 1
        tiers[TIERS[tier]] = tiers.get(TIERS[tier], 0) + 1
        score += float(weights[tier])
    return WorkerExplanation(
        pod=view.pod,
        rank=view.rank,
        blocks=n_blocks,
        tier_blocks=tiers,
        score=score,
        ends_at_block=n_blocks,
        reason=_reason(holder, lane_names, found, n_blocks),
        cached_tokens=match.cached_tokens if match is not None else 0,
        truth=view.state,
        doubts=view.doubts,
        stores=tuple(sorted(view.stores)),
    )


def _reason(holder: _Holder, lane_names: Mapping[int, LaneName], found: Sequence[Held], at: int) -> str:
    if at == len(found):
        return "the prompt's full blocks end here" if found else "the prompt has no full block"
    if not holder.full:
        return "the worker has no full-attention group"
    held = found[at]
    if any(held.get(lane) for lane in holder.full):
        return f"block {at} is held in some of the worker's attention groups only"
    names = [lane_names[lane] for lane in held if lane in lane_names]
    others = sorted({name if isinstance(name, str) else name[0] for name in names})
    if not others:
        return f"block {at} is held nowhere"
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"block {at} is not held here, but by {', '.join(others[:3])}{more}"
