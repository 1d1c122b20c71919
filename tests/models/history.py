"""What workers were sent, block by block in dicts: native/history.hpp without its tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

EXPIRED_MOST = 64


@dataclass
class Block:
    """That one slot was sent one block."""

    parent: int | None
    depth: int
    until_s: float
    first: int
    """Notes that made it, and were the last to say it."""
    last: int


@dataclass
class SlotModel:
    blocks: dict[int, Block] = field(default_factory=dict)
    """By key."""
    limit: int | None = None

    def oldest(self) -> tuple[int, int, int]:
        """(last note, deepest first, key)"""
        return min((block.last, -block.depth, key) for key, block in self.blocks.items())

    def has_child(self, key: int) -> bool:
        return any(block.parent == key for block in self.blocks.values())

    def end_oldest(self) -> None:
        del self.blocks[self.oldest()[2]]


class HistoryModel:
    """As `History`. Expects few enough blocks that one note never has more than 64 to expire."""

    def __init__(self, blocks_max: int) -> None:
        self.blocks_max = blocks_max
        self.slots: list[SlotModel] = []
        self.notes = 0
        self._swept = 0

    @property
    def blocks(self) -> int:
        return sum(len(slot.blocks) for slot in self.slots)

    def _slot(self, slot: int) -> SlotModel:
        self.slots += [SlotModel() for _ in range(len(self.slots), slot + 1)]
        return self.slots[slot]

    def note(self, slot: int, keys: Sequence[int], now_s: float, until_s: float) -> int:
        own = self._slot(slot)
        self._expire(own, now_s)
        self._swept = (self._swept + 1) % len(self.slots)
        self._expire(self.slots[self._swept], now_s)
        keys = keys[: min(self.blocks_max, self.blocks_max if own.limit is None else own.limit)]
        if not keys or until_s <= now_s:
            return 0
        self.notes += 1
        for depth, key in enumerate(keys):
            parent = keys[depth - 1] if depth else None
            block = own.blocks.setdefault(key, Block(parent, depth, until_s, self.notes, self.notes))
            block.until_s = max(block.until_s, until_s)
            block.last = self.notes
        self._make_room(own)
        return self.notes

    def hints(
        self, keys: Sequence[int], slots: Sequence[int], now_s: float, tokens_per_block: float = 1.0
    ) -> list[float] | None:
        found = [self._depth(keys, slot, now_s) * tokens_per_block for slot in slots]
        return found if any(found) else None

    def drop(self, slot: int, keys: Sequence[int], note: int) -> None:
        own = self._slot(slot) if slot < len(self.slots) else SlotModel()
        for key in reversed(keys):
            block = own.blocks.get(key)
            if block is None:
                continue
            if not block.first == block.last == note or own.has_child(key):
                return
            del own.blocks[key]

    def set_limit(self, slot: int, blocks: int) -> None:
        own = self._slot(slot)
        own.limit = blocks
        while len(own.blocks) > blocks:
            own.end_oldest()

    def forget(self, slot: int) -> None:
        if slot < len(self.slots):
            self.slots[slot] = SlotModel()

    def _depth(self, keys: Sequence[int], slot: int, now_s: float) -> int:
        held = self.slots[slot].blocks if slot < len(self.slots) else {}
        depth = 0
        for key in keys:
            if key not in held or held[key].until_s <= now_s:
                break
            depth += 1
        return depth

    def _make_room(self, own: SlotModel) -> None:
        while own.limit is not None and len(own.blocks) > own.limit:
            own.end_oldest()
        if self.blocks > self.blocks_max:
            while self.blocks > self.blocks_max - self.blocks_max // 64:
                min((slot for slot in self.slots if slot.blocks), key=SlotModel.oldest).end_oldest()

    def _expire(self, slot: SlotModel, now_s: float) -> None:
        """From the oldest on, up to one that lasts."""
        for _ in range(EXPIRED_MOST):
            if not slot.blocks or slot.blocks[slot.oldest()[2]].until_s > now_s:
                return
            slot.end_oldest()
