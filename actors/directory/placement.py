"""Where the replicas of a layout are to be."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kvatlas.actors.directory.layouts import Shape, Slot
from kvatlas.index.errors import InputError

_SHARDS_MAX = 1024
_REPLICAS_MAX = 8


class Placement:
    """Knows the nodes of the Ray cluster, and deals replicas out to them. One thread at a time."""

    def __init__(self, chosen: Collection[str], nodes: Mapping[str, str]) -> None:
        """`chosen`: nodes that may hold shards; empty: all. `nodes`: addresses by Ray's ids."""
        self._chosen = frozenset(chosen)
        self.nodes = dict(nodes)

    def see(self, nodes: Mapping[str, str]) -> bool:
        """The nodes that there are now; whether they differ."""
        differ = dict(nodes) != self.nodes
        self.nodes = dict(nodes)
        return differ

    @property
    def names(self) -> set[str]:
        """Ids and addresses."""
        return {*self.nodes, *self.nodes.values()}

    def node_id(self, name: str) -> str:
        """Ray's id of the node that this id or address names; empty: it is no node of the cluster."""
        by_address = {address: node_id for node_id, address in self.nodes.items()}
        return name if name in self.nodes else by_address.get(name, "")

    def nodes_for(self, shape: Shape) -> tuple[str, ...]:
        """Nodes that may hold replicas."""
        allowed = self._chosen or self.nodes.keys()
        return tuple(sorted(node for node in self.nodes if node in allowed and node not in shape.off_nodes))

    def check(self, wanted: Shape, present: Shape) -> None:
        """Raises InputError where `wanted`, in place of `present`, is out of range or has no node."""
        if not 1 <= wanted.n_shards <= _SHARDS_MAX:
            raise InputError(f"shards: expected 1 to {_SHARDS_MAX}, got {wanted.n_shards}")
        if not 0 <= wanted.replicas_per_node <= _REPLICAS_MAX:
            expected = f"0 to {_REPLICAS_MAX}"
            raise InputError(f"replicas_per_node: expected {expected}, got {wanted.replicas_per_node}")
        unknown = set(wanted.off_nodes) - self.nodes.keys() - set(present.off_nodes)
        if unknown:
            raise InputError(f"off_nodes: expected nodes of {sorted(self.nodes)}, got {sorted(unknown)}")
        if not self.nodes_for(wanted):
            raise InputError("off_nodes: expected a node to be left for the shards, got all of them")

    def slots(self, layout: int, shape: Shape, present: Mapping[Slot, str] | None = None) -> dict[Slot, str]:
        """The slots of a layout, each with its node; empty: any node, since the scheduler knows better.

        Slots of `present` that still fit stay as they are, so that their processes do.
        """
        nodes = self.nodes_for(shape)
        present = present or {}
        if shape.replicas_per_node:
            wanted = [node for node in nodes for _ in range(shape.replicas_per_node)]
            slots: dict[Slot, str] = {}
            for shard in range(shape.n_shards):
                slots |= _of_shard(layout, shard, wanted, present)
            return slots
        is_free = not (shape.off_nodes or self._chosen) or not nodes
        return {
            slot: "" if is_free else _kept_or_dealt(slot, nodes, present)
            for slot in (Slot(layout, shard, 0) for shard in range(shape.n_shards))
        }


def _kept_or_dealt(slot: Slot, nodes: tuple[str, ...], present: Mapping[Slot, str]) -> str:
    kept = present.get(slot)
    return kept if kept in nodes else nodes[slot.shard % len(nodes)]


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
