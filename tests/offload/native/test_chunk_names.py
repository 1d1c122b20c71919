"""Names of chunk files: one for each key, one key for each."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.offload._native import KEY_BYTES_MAX, chunk_key, chunk_name

pytestmark = pytest.mark.native

keys = st.binary(min_size=5, max_size=KEY_BYTES_MAX)


def test_a_name_is_hash_and_group_in_a_folder_of_its_first_letters() -> None:
    assert chunk_name(bytes.fromhex("abcdef01") + b"\0\0\1\0") == "abc/abcdef01_g256.kv"
    assert chunk_name(b"\x0f" + bytes(4)) == "0f0/0f_g0.kv"


@given(key=keys)
def test_a_name_says_its_key_with_its_folder_or_without(key: bytes) -> None:
    name = chunk_name(key)
    assert chunk_key(name) == key
    assert chunk_key(os.path.basename(name)) == key
    assert len(os.path.basename(name)) + len(f"..{'0' * 32}.{2**64}.tmp") < 255


@given(a=keys, b=keys)
def test_two_keys_have_two_names(a: bytes, b: bytes) -> None:
    assert (chunk_name(a) == chunk_name(b)) == (a == b)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        ".kv",
        "_g0.kv",
        "abcd_g.kv",
        "abcd_g00.kv",
        "abcd_g01.kv",
        "abcd_g-1.kv",
        "abcd_g+1.kv",
        "abcd_g4294967296.kv",
        "abc_g0.kv",
        "ABCD_g0.kv",
        "abcd_g0.kv ",
        "abcd_g0.kv.tmp",
        ".abcd_g0.kv.00.0.tmp",
        "abcd_g0_g0.kv",
        "abcd_g0",
        "xyz/abcd_g0.kv",
        "abd/abcd_g0.kv",
        "abc/abc/abcd_g0.kv",
        "../abcd_g0.kv",
        "/abcd_g0.kv",
        "ab" * 65 + "_g0.kv",
        "abcd_g0.kv\0",
        "äbcd_g0.kv",
        "config.json",
    ],
)
def test_names_that_no_key_has_are_none(name: str) -> None:
    assert chunk_key(name) is None


@given(name=st.text(alphabet="0123456789abcdefg_./kv", max_size=24))
def test_whatever_is_taken_for_a_name_is_the_one_of_its_key(name: str) -> None:
    key = chunk_key(name)
    if key is not None:
        assert name in (chunk_name(key), os.path.basename(chunk_name(key)))


@pytest.mark.parametrize("n_bytes", [0, 4, KEY_BYTES_MAX + 1])
def test_keys_that_are_too_short_or_too_long_have_no_name(n_bytes: int) -> None:
    with pytest.raises(InputError, match=f"key: expected 5 to {KEY_BYTES_MAX} bytes, got {n_bytes}"):
        chunk_name(bytes(n_bytes))
