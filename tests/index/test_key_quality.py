"""fold64 spreads: every input bit moves about half of the key, and no structure collides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from kvatlas.index.keys import block_keys

pytestmark = pytest.mark.native

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]


def bits(keys: U64) -> npt.NDArray[np.uint8]:
    """The bits of each key, [n_keys, 64]."""
    return np.unpackbits(keys.view(np.uint8).reshape(-1, 8), axis=1)


def first_key(token_ids: U32, parent: int | None = None) -> int:
    size = len(token_ids)
    return int(block_keys(token_ids, model="m", block_size=size, parent=parent)[0])


def changes(pairs: list[tuple[int, int]]) -> npt.NDArray[np.uint8]:
    """Which bits differ in each pair of keys, [n_pairs, 64]."""
    left, right = np.array(pairs, np.uint64).T.copy()
    return bits(left ^ right)


def assert_avalanche(flips: npt.NDArray[np.uint8]) -> None:
    assert 28 <= flips.sum(axis=1).mean() <= 36
    share = flips.mean(axis=0)
    assert share.min() >= 0.25
    assert share.max() <= 0.75


@pytest.mark.parametrize("size", [1, 2, 5, 16, 32, 40])
@pytest.mark.parametrize("kind", ["random", "zeros", "small"])
def test_every_bit_of_a_token_moves_half_of_the_key(size: int, kind: str) -> None:
    random = np.random.default_rng(size)
    limit = {"random": 2**32, "zeros": 1, "small": 50_000}[kind]
    per_bit: dict[int, list[tuple[int, int]]] = {}
    positions = random.permutation(size)[:16]
    for _ in range(max(1, 64 // len(positions))):
        block = random.integers(0, limit, size, dtype=np.uint32)
        parent = int(random.integers(1, 2**63))
        key = first_key(block, parent)
        for position in positions:
            for bit in range(32):
                flipped = block.copy()
                flipped[position] ^= np.uint32(1 << bit)
                per_bit.setdefault(bit, []).append((key, first_key(flipped, parent)))
    assert_avalanche(changes([pair for pairs in per_bit.values() for pair in pairs]))
    for pairs in per_bit.values():
        assert 24 <= changes(pairs).sum(axis=1).mean() <= 40


def test_every_bit_of_the_parent_moves_half_of_the_key() -> None:
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(32):
        block = random.integers(0, 50_000, 16, dtype=np.uint32)
        parent = int(random.integers(1, 2**63))
        key = first_key(block, parent)
        pairs += [(key, first_key(block, parent ^ 1 << bit)) for bit in range(64)]
    assert_avalanche(changes(pairs))


def structured_chains() -> Iterator[U64]:
    """Keys of inputs that a weak hash would confuse, each chain from a root of its own."""
    n = 1 << 20
    counter = np.arange(n * 4, dtype=np.uint32)
    windows = np.lib.stride_tricks.sliding_window_view(counter[: n // 4 + 15], 16)
    inputs = [
        (1, np.zeros(n // 4, np.uint32)),
        (1, counter[: n // 4]),
        (2, np.zeros(n // 2, np.uint32)),
        (2, counter[: n // 2]),
        (4, counter[:n] << np.uint32(12)),
        (4, np.full(n, 2**32 - 1, np.uint32)),
        (16, counter),
        (16, np.tile(counter[:16], n // 16)),
        (16, windows.reshape(-1)),
    ]
    for parent, (size, token_ids) in enumerate(inputs, 1):
        yield block_keys(token_ids, model="m", block_size=size, parent=parent)


def single_blocks() -> Iterator[U32]:
    """Blocks that differ as little as blocks can: bits, swaps, rotations, padding."""
    base = np.arange(1, 17, dtype=np.uint32)
    for i in range(16):
        for j in range(i):
            swapped = base.copy()
            swapped[[i, j]] = swapped[[j, i]]
            yield swapped
    for shift in range(16):
        yield np.roll(base, shift)
    for value in range(1, 2000):
        for position in range(16):
            block = np.zeros(16, np.uint32)
            block[position] = value
            yield block
    halves = [np.array(pair, np.uint32) for pair in np.ndindex(90, 90)]
    for pair in halves[1:]:
        yield np.repeat(pair, 8)
    for pair in halves:
        yield np.concatenate([pair, np.full(14, 7, np.uint32)])


@pytest.mark.slow
def test_structured_input_gives_two_million_keys_without_a_collision() -> None:
    keys = [*structured_chains()]
    blocks = {block.tobytes() for block in single_blocks()}
    assert len(blocks) > 40_000
    singles = [first_key(np.frombuffer(block, np.uint32), parent=1) for block in blocks]
    keys.append(np.array(singles, np.uint64))
    merged = np.concatenate(keys)
    assert len(merged) > 2_000_000
    assert len(np.unique(merged)) == len(merged)


def test_zero_padding_is_not_content() -> None:
    """Blocks of 1 to 48 tokens that are alike but for zeros at the end differ in their keys."""
    keys = {first_key(np.array([5] + [0] * (size - 1), np.uint32), parent=1) for size in range(1, 49)}
    assert len(keys) == 48


def test_the_order_of_blocks_is_in_the_key() -> None:
    a, b = np.arange(16, dtype=np.uint32), np.arange(16, 32, dtype=np.uint32)
    keys = [key for order in ([a, b], [b, a]) for key in block_keys(np.concatenate(order), model="m")]
    assert len({int(key) for key in keys}) == 4


def test_seeds_models_and_block_sizes_are_keyspaces_of_their_own() -> None:
    token_ids = np.arange(64, dtype=np.uint32)
    keys = [
        int(key)
        for seed in ("", "a", "ab")
        for name in ("", "b", "ab")
        for size in (1, 2, 16, 32)
        for key in block_keys(token_ids, model=name, block_size=size, hash_seed=seed)
    ]
    assert len(set(keys)) == len(keys)
