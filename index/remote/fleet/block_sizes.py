"""Sessions that cut prompts of one model into blocks of different sizes: their keys never meet."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvatlas.index.fleet_view import degraded_worker
from kvatlas.index.remote.fleet.session_part import SessionPart


def with_size_doubts(parts: Mapping[int, SessionPart]) -> dict[int, SessionPart]:
    """The same parts; those whose blocks of a model are larger than another's say that they are not found.

    Readers make the keys of the smallest size (`FleetView`).
    """
    sizes: dict[str, int] = {}
    for at in parts.values():
        for model, size in at.part.block_sizes.items():
            if size:
                sizes[model] = min(size, sizes.get(model, size))
    return {session: _doubted(at, sizes) for session, at in parts.items()}


def _doubted(at: SessionPart, sizes: Mapping[str, int]) -> SessionPart:
    says = {
        model: f"model {model!r}: expected blocks of {sizes[model]} tokens, as another session's, got {size}"
        for model, size in at.part.block_sizes.items()
        if size and size != sizes[model]
    }
    if not says:
        return at
    workers = tuple(
        degraded_worker(view, says[view.model]) if view.model in says else view for view in at.part.workers
    )
    part = msgspec.structs.replace(at.part, workers=workers)
    return msgspec.structs.replace(at, part=part, is_whole=False, says="; ".join(says.values()))
