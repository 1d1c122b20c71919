"""Where the replicas of a layout are to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kvatlas.actors.directory.layouts import Shape, Slot


def slots_of(
    layout: int,
    shape: Shape,
    nodes: Collection[str],
    present: Mapping[Slot, str] | None = None,
) -> dict[Slot, str]:
    """The slots of a layout, each with its node; empty: any node.

    Without replicas on each node there is one of each shard, dealt out to `nodes`; no nodes: wherever.
    Slots of `present` that still fit stay as they are, so that their processes do.
    """
    ordered = sorted(set(nodes))
    slots: dict[Slot, str] = {}
    for shard in range(shape.n_shards):
        if shape.replicas_per_node == 0:
            slots[Slot(layout, shard, 0)] = ordered[shard % len(ordered)] if ordered else ""
        else:
            wanted = [node for node in ordered for _ in range(shape.replicas_per_node)]
            slots |= _of_shard(layout, shard, wanted, present or {})
    return slots


def _of_shard(layout: int, shard: int, wanted: list[str], present: Mapping[Slot, str]) -> dict[Slot, str]:
    kept: dict[Slot, str] = {}
    missing = list(wanted)
    for slot, node in sorted(present.items()):
        if slot.shard == shard and node in missing:
            missing.remove(node)
            kept[slot] = node
    # A number that was in use until now may still name a process on the node that left.
    used = {slot.replica for slot in present if slot.shard == shard}
    for node in missing:
        number = next(number for number in range(len(used) + 1) if number not in used)
        used.add(number)
        kept[Slot(layout, shard, number)] = node
    return kept


def nodes_for(alive: Collection[str], chosen: Collection[str], off: Collection[str]) -> tuple[str, ...]:
    """Nodes that may hold replicas: of those alive the chosen ones, or all, less those to be left."""
    return tuple(sorted(node for node in alive if (not chosen or node in chosen) and node not in off))
