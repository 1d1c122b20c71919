"""What an engine key stands for: a place at the end of one chain of tokens, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from tests.models.block_keys import NO_EXTRAS, Keyspace
from tests.models.extras import Extra, Place, peel


@dataclass(frozen=True)
class Step:
    """One engine block of a chain, as its store told it."""

    key: int
    tokens: tuple[int, ...]
    elements: tuple[Extra, ...] | None
    lora: str | None
    salt: str | None
    """A salt that came beside the elements."""


@dataclass(frozen=True)
class Meaning:
    """An engine block, and the index blocks that end inside it."""

    path: tuple[tuple[int, int], ...]
    """Engine key and end, in tokens, of every engine block of the chain up to this one."""
    blocks: tuple[tuple[int, int], ...]
    """Key and start, in tokens, of the index blocks that end inside this engine block."""
    last_key: int
    """Key of the last full index block of the chain, or its root."""
    tail: tuple[int, ...]
    """Tokens of the chain behind its last full index block."""
    salt: str | None
    """Salt of the chain, while its first index block is not full."""
    whole: bool = True
    """It begins and ends where index blocks do."""
    unindexed: str | None = None
    """Why it has no block keys, if it has none."""

    @property
    def end(self) -> int:
        return self.path[-1][1] if self.path else 0


def chain_start(space: Keyspace, lora: str | None) -> Meaning:
    """What the first block of a chain continues from."""
    return Meaning((), (), space.root(lora), (), None)


def extend(space: Keyspace, parent: Meaning, step: Step) -> Meaning:
    """The meaning of the engine block that follows `parent`."""
    path = (*parent.path, (step.key, parent.end + len(step.tokens)))
    aligned = len(step.tokens) == space.block_size and not parent.tail
    place = Place(
        first=not parent.path,
        aligned=aligned,
        algorithm=space.algorithm,
        lora=step.lora,
        salt=step.salt,
    )
    extras = peel(step.elements, place)
    if parent.unindexed is not None or isinstance(extras, str):
        reason = extras if parent.unindexed is None else "chain_unindexed"
        return Meaning(path, (), 0, (), None, unindexed=str(reason))
    start, pending, last = parent.end - len(parent.tail), parent.tail + step.tokens, parent.last_key
    salt = parent.salt if parent.path else extras.salt
    extras = extras if aligned else NO_EXTRAS
    blocks: list[tuple[int, int]] = []
    while len(pending) >= space.block_size:
        block, pending = pending[: space.block_size], pending[space.block_size :]
        last = space.next_key(last, block, replace(extras, salt=salt))
        blocks.append((last, start))
        start, salt = start + space.block_size, None
    whole = not parent.tail and not pending
    return Meaning(path, tuple(blocks), last, pending, salt, whole)


def resident(meanings: Mapping[int, Meaning], holds: Callable[[int], bool]) -> set[int]:
    """The index blocks all of whose engine blocks are held, worked out from nothing else."""
    keys: set[int] = set()
    for meaning in meanings.values():
        for key, start in meaning.blocks:
            if all(holds(engine_key) for engine_key in engine_keys_under(meaning, start)):
                keys.add(key)
    return keys


def engine_keys_under(meaning: Meaning, start: int) -> Iterator[int]:
    """The engine blocks that the index block from `start` to within `meaning` lies on."""
    for engine_key, end in reversed(meaning.path):
        if end <= start:
            return
        yield engine_key
