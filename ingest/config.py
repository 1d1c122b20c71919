"""Configuration of an embedded atlas. Every field has a unit in its name and a default."""

from __future__ import annotations

import itertools
from typing import get_args

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.index.keys import Algorithm
from kvatlas.index.scores import DEFAULT_TIER_WEIGHTS


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known beforehand of one model."""

    block_size_tokens: int | None = None
    """Tokens in a block of the index, 1 to 4096. None: the smallest dense block announced. Set it
    where servers of one model differ: a smaller size that comes later empties the model's workers
    (mirrors keep keys, not tokens) until their blocks are announced again."""
    lora_names: dict[int, str] = {}
    """Names of LoRA adapters by the number that old servers send instead of a name."""


class PodConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known beforehand of one pod."""

    model: str | None = None
    """Its model, where its topic does not say."""
    stores: tuple[str, ...] = ()
    """Stores of KV files that it reads; the first receives its storage events. Empty: one store per
    model, shared by the pods that announce on it."""


class AtlasConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An embedded atlas. Raises ConfigError for values out of range, with their path."""

    # Behaviour.
    hash_seed: str | None = None
    """Seed of the block keys. None: random and private to this atlas. Set it, and keep it secret,
    where several processes must agree."""
    algorithm: Algorithm = "fold64"
    """fold64, or fnv64a_cbor to agree with llm-d."""
    models: dict[str, ModelConfig] = {}
    pods: dict[str, PodConfig] = {}
    default_model: str | None = None
    """Model of messages whose topic does not name one."""
    default_pod: str | None = None
    """Pod of messages whose topic does not name one."""
    tier_weights: dict[str, float] = {}
    """What a block is worth by its best tier; tiers that are not here keep gpu 1.0, cpu 0.8,
    disk 0.5, storage 0.4, unknown 0. A faster tier never weighs less than a slower one."""

    # Performance and bounds.
    shards: int = 1
    """Tables in this process, 1 to 1024."""
    table_bytes_max: int = 1 << 30
    """Byte budget of each table, at least 4 MiB; at the budget the coldest segments are dropped."""
    ghosts_max: int = 8192
    """Engine blocks per worker whose meaning is kept after their last copy is gone, at least 1."""
    orphans_max: int = 4096
    """Stores per worker that wait for an unknown parent."""
    orphan_bytes_max: int = 4 << 20
    """Their bytes per worker."""
    store_blocks_max: int = 1 << 20
    """Engine blocks per store of KV files; further ones are counted and left out."""
    workers_max: int = 8192
    """Workers at one time, and models ever; further ones are refused."""

    def __post_init__(self) -> None:
        algorithms = get_args(Algorithm)
        _check("algorithm", self.algorithm, self.algorithm in algorithms, f"one of {algorithms}")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            _check(name, value, _is_int(value) and low <= value <= high, f"an int from {low} to {high}")
        for model, config in self.models.items():
            size = config.block_size_tokens
            path = f"models[{model!r}].block_size_tokens"
            good = size is None or (_is_int(size) and 1 <= size <= 4096)
            _check(path, size, good, "an int from 1 to 4096 or None")
        for tier, weight in self.tier_weights.items():
            path = f"tier_weights[{tier!r}]"
            _check(path, tier, tier in DEFAULT_TIER_WEIGHTS, f"a tier of {tuple(DEFAULT_TIER_WEIGHTS)}")
            _check(path, weight, _is_weight(weight), "a number of at least 0")
        weights = list({**DEFAULT_TIER_WEIGHTS, **self.tier_weights}.values())
        falling = all(a >= b for a, b in itertools.pairwise(weights))
        _check(
            "tier_weights",
            self.tier_weights,
            falling,
            f"weights that do not rise along {tuple(DEFAULT_TIER_WEIGHTS)}",
        )


_RANGES = (
    ("shards", 1, 1024),
    ("table_bytes_max", 4 << 20, 1 << 44),
    ("ghosts_max", 1, 1 << 24),
    ("orphans_max", 0, 1 << 24),
    ("orphan_bytes_max", 0, 1 << 40),
    ("store_blocks_max", 0, 1 << 40),
    ("workers_max", 1, 65535),
)


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and value >= 0


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(path: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{path}: expected {expected}, got {value!r}")
