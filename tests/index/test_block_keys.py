"""Block keys: the published vectors, the plain model, and clear errors."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.index.keys import block_keys
from tests.models import block_keys as model

pytestmark = pytest.mark.native

GRANITE_TOKENS = [8197, 438, 322, 18926, 432, 45600, 49]
# hash seed, model, block size, tokens, keys
VECTORS = [
    ("", "test-model", 16, range(1, 33), [9540012594951042066, 16921089685996993662]),
    ("", "test-model", 4, range(1, 11), [12915946116324560722, 16245044729138844785]),
    ("", "Qwen/Qwen3-32B", 16, range(1, 33), [370075131844692712, 4995634817740060132]),
    (
        "test-seed",
        "meta-llama/Llama-3.1-8B-Instruct",
        16,
        range(1, 33),
        [6845475630666034266, 15445590711736341945],
    ),
    ("42", "Qwen/Qwen3-32B", 16, range(1, 33), [7334204053829979496, 9396288734915886766]),
    ("", "ibm-granite/granite-3.1-8b-instruct", 4, GRANITE_TOKENS, [1334984470577408192]),
]
ROOTS = [
    ("", "test-model", 17515353698173365712),
    ("", "Qwen/Qwen3-32B", 11160219822859629256),
    ("test-seed", "meta-llama/Llama-3.1-8B-Instruct", 1133760895470840853),
    ("42", "Qwen/Qwen3-32B", 9214240205328285985),
]
WIDTHS = [0, 23, 24, 255, 256, 65535, 65536, 4294967295]

tokens = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 40))
texts = st.one_of(st.sampled_from(["", "a", "b", "lora", "x" * 15, "x" * 16]), st.text(max_size=40))
features = st.lists(st.tuples(texts, st.integers(0, 300), st.integers(1, 80)), max_size=5)
parents = st.one_of(st.none(), st.integers(0, 2**64 - 1))


def native_keys(token_ids: Any, **options: Any) -> list[int]:
    keys = block_keys(token_ids, **options)
    assert keys.dtype == np.uint64
    return [int(key) for key in keys]


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, Any]:
    """A prompt of a few blocks, and everything that may enter its keys but the algorithm."""
    size = draw(st.one_of(st.integers(1, 48), st.sampled_from([1, 16, 32, 64, 4096])))
    blocks = draw(st.integers(0, 6 if size < 100 else 1))
    extra = draw(st.integers(0, min(size - 1, 20)))
    if size < 100:
        length = blocks * size + extra
        token_ids = draw(st.lists(tokens, min_size=length, max_size=length))
    else:
        token_ids = [(i * 2654435761) % 2**32 for i in range(blocks * size + extra)]
    return {
        "token_ids": token_ids,
        "model": draw(texts),
        "block_size": size,
        "hash_seed": draw(texts),
        "lora": draw(st.one_of(st.none(), texts)),
        "features": draw(st.one_of(st.none(), features)),
        "parent": draw(parents),
    }


@pytest.mark.parametrize(("seed", "name", "size", "token_ids", "keys"), VECTORS)
def test_the_published_vectors_hold(
    seed: str, name: str, size: int, token_ids: list[int], keys: list[int]
) -> None:
    options: dict[str, Any] = {
        "model": name,
        "block_size": size,
        "algorithm": "fnv64a_cbor",
        "hash_seed": seed,
    }
    assert model.block_keys(token_ids, **options) == keys
    assert native_keys(list(token_ids), **options) == keys


@pytest.mark.parametrize(("seed", "name", "root"), ROOTS)
def test_a_chain_that_continues_from_the_published_root_is_the_whole_chain(
    seed: str, name: str, root: int
) -> None:
    options: dict[str, Any] = {"model": name, "algorithm": "fnv64a_cbor", "hash_seed": seed}
    assert model.Fnv64aCbor(seed, name, 16).root(None) == root
    token_ids = list(range(32))
    assert native_keys(token_ids, parent=root, **options) == native_keys(token_ids, **options)


def test_the_published_vectors_with_features_hold() -> None:
    options: dict[str, Any] = {"model": "test-model", "block_size": 4, "algorithm": "fnv64a_cbor"}
    one = native_keys(list(range(1, 9)), features=[("abc", 0, 4)], **options)
    two = native_keys([1, 2, 3, 4], features=[("aa", 0, 4), ("bb", 1, 3)], **options)
    assert one == [9228555881068281781, 16327558832298340572]
    assert two == [7092782761057436114]


@pytest.mark.parametrize(
    ("parent", "token_ids", "key"),
    [(2**64 - 1, WIDTHS, 1010521623091336951), (12345, [1, 2, 3, 4], 18137631916912190772)],
)
def test_the_published_vectors_of_integer_widths_hold(parent: int, token_ids: list[int], key: int) -> None:
    options: dict[str, Any] = {"model": "m", "algorithm": "fnv64a_cbor", "parent": parent}
    assert native_keys(token_ids, block_size=len(token_ids), **options) == [key]


@given(prompts(), st.one_of(st.none(), texts))
def test_fold64_equals_the_plain_model(prompt: dict[str, Any], salt: str | None) -> None:
    options = dict(prompt, cache_salt=salt, algorithm="fold64")
    assert native_keys(**options) == model.block_keys(**options)


@given(prompts())
def test_fnv64a_cbor_equals_the_plain_model(prompt: dict[str, Any]) -> None:
    options = dict(prompt, algorithm="fnv64a_cbor")
    assert native_keys(**options) == model.block_keys(**options)


@pytest.mark.parametrize("algorithm", ["fold64", "fnv64a_cbor"])
@given(token_ids=st.lists(tokens, max_size=40))
def test_lists_arrays_and_bytes_give_the_same_keys(algorithm: str, token_ids: list[int]) -> None:
    packed = struct.pack(f"<{len(token_ids)}I", *token_ids)
    inputs = (token_ids, np.array(token_ids, np.uint32), packed, bytearray(packed))
    keys = [native_keys(x, model="m", block_size=4, algorithm=algorithm) for x in inputs]
    assert keys[0] == keys[1] == keys[2] == keys[3]
    assert len(keys[0]) == len(token_ids) // 4


@pytest.mark.parametrize("algorithm", ["fold64", "fnv64a_cbor"])
@given(prompt=prompts(), cut=st.integers(0, 6))
def test_a_chain_continues_from_any_of_its_keys(algorithm: str, prompt: dict[str, Any], cut: int) -> None:
    size, token_ids = prompt["block_size"], prompt["token_ids"]
    options = dict(prompt, algorithm=algorithm)
    whole = native_keys(**options)
    if not 0 < cut <= len(whole):
        return
    moved = [(i, offset - cut * size, n) for i, offset, n in prompt["features"] or ()]
    # An item that began before the cut keeps its offset in the block that overlaps it.
    if any(offset < 0 for _, offset, _ in moved):
        return
    options.update(token_ids=token_ids[cut * size :], parent=whole[cut - 1], features=moved)
    assert native_keys(**options) == whole[cut:]


def test_a_parent_carries_lora_and_salt_already() -> None:
    plain = native_keys(list(range(16)), model="m", parent=7)
    assert native_keys(list(range(16)), model="m", parent=7, lora="l", cache_salt="s") == plain


def test_every_kind_of_extra_changes_the_key_and_none_is_mistaken_for_another() -> None:
    def key(**extras: Any) -> int:
        return native_keys(list(range(16)), model="m", **extras)[0]

    keys = [
        key(),
        key(lora="x"),
        key(cache_salt="x"),
        key(features=[("x", 0, 16)]),
        key(features=[("x", 1, 15)]),
        key(features=[("x", 0, 16), ("x", 1, 15)]),
        key(lora="x", cache_salt="x"),
        key(hash_seed="x"),
        native_keys(list(range(16)), model="mx")[0],
    ]
    assert len(set(keys)) == len(keys)


def test_an_item_is_in_every_block_that_it_overlaps_and_in_no_other() -> None:
    token_ids, options = list(range(16)), {"model": "m", "block_size": 4}
    whole = native_keys(token_ids, features=[("x", 5, 4)], **options)
    for i in range(4):
        parent = whole[i - 1] if i > 0 else None
        without = native_keys(token_ids[4 * i : 4 * i + 4], parent=parent, **options)
        assert (whole[i] == without[0]) == (i not in (1, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"token_ids": [0, 2**32]},
        {"token_ids": [-1]},
        {"token_ids": ["a"]},
        {"token_ids": [1.5]},
        {"token_ids": [None]},
        {"token_ids": b"abc"},
        {"token_ids": "abcd"},
        {"token_ids": None},
        {"token_ids": 5},
        {"block_size": 0},
        {"block_size": 4097},
        {"block_size": -1},
        {"algorithm": "sha256"},
        {"features": [("x", 0)]},
        {"features": [("x", 0, -1)]},
        {"features": [(1, 0, 1)]},
        {"features": [("x", "0", 1)]},
        {"features": [("x", -1, 4)]},
        {"features": [("x", 0, 2**63)]},
        {"features": ["x"]},
        {"parent": -1},
        {"parent": 2**64},
        {"algorithm": "fnv64a_cbor", "cache_salt": "s"},
    ],
)
def test_bad_input_is_a_clear_error(options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"token_ids": [1, 2, 3, 4], "model": "m", "block_size": 4}
    arguments.update(options)
    with pytest.raises(InputError, match=r"."):
        block_keys(**arguments)


@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 4095, 4096])
def test_only_full_blocks_have_keys(size: int) -> None:
    for length in (0, size - 1, size, 2 * size - 1, 2 * size):
        assert len(native_keys([7] * length, model="m", block_size=size)) == length // size
