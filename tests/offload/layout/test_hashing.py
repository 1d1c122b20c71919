"""The hash scheme: told by options and environment, and compared with what the engine chose."""

from __future__ import annotations

import hashlib
import pickle
from types import SimpleNamespace

import cbor2
import pytest

from kvatlas.index.errors import ConfigError, StoreError
from kvatlas.offload.layout.hashing import check_hashing, hash_scheme

DEFAULT = "vllm-none-hash"


def chosen(seed: str, algorithm: str = "sha256") -> SimpleNamespace:
    """What vLLM's module says once it has begun."""
    content = (
        cbor2.dumps(seed, canonical=True) if algorithm == "sha256_cbor" else pickle.dumps(seed, protocol=5)
    )
    root = hashlib.sha256(content).digest()
    return SimpleNamespace(
        get_none_hash_seed=lambda: seed, NONE_HASH=root if algorithm.startswith("sha") else root[:16]
    )


@pytest.mark.parametrize("algorithm", ["sha256", "sha256_cbor"])
@pytest.mark.parametrize("environ", [{}, {"PYTHONHASHSEED": "0"}, {"PYTHONHASHSEED": "x" * 300}])
def test_a_seed_that_is_fixed_or_set_is_agreed_on(algorithm: str, environ: dict[str, str]) -> None:
    check_hashing(hash_scheme(algorithm, environ), chosen(environ.get("PYTHONHASHSEED", DEFAULT), algorithm))


def test_a_random_seed_is_refused_before_anything_is_stored() -> None:
    with pytest.raises(ConfigError, match="hash_algorithm: expected PYTHONHASHSEED to be set with 'xxhash'"):
        hash_scheme("xxhash", {})
    scheme = hash_scheme("xxhash", {"PYTHONHASHSEED": "7"})
    assert scheme.key_bytes == 20
    check_hashing(scheme, chosen("7", "xxhash"))
    with pytest.raises(StoreError, match=r"hash seed: expected .*, got .*random"):
        check_hashing(scheme, chosen("f" * 64, "xxhash"))


def test_seeds_make_schemes_that_differ_and_do_not_show_them() -> None:
    schemes = [
        hash_scheme(environ=environ) for environ in ({}, {"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    ]
    assert len({scheme.seed for scheme in schemes}) == 3 and schemes[0].seed == "default"
    assert [len(scheme.seed) for scheme in schemes[1:]] == [16, 16]


@pytest.mark.parametrize(
    ("said", "used", "got"),
    [
        ("sha256", "sha256_cbor", "sha256_cbor"),
        ("sha256_cbor", "sha256", "sha256"),
        ("sha256", "xxhash", "xxhash or xxhash_cbor"),
    ],
)
def test_another_algorithm_than_was_said_is_refused_and_named(said: str, used: str, got: str) -> None:
    with pytest.raises(StoreError, match=f"block hash: expected {said}, got {got}: say so in hash_algorithm"):
        check_hashing(hash_scheme(said, {}), chosen(DEFAULT, used))


def test_an_unknown_algorithm_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"hash_algorithm: expected one of sha256, .*, got 'md5'"):
        hash_scheme("md5")
