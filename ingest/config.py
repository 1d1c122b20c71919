"""Configuration of an embedded atlas. Every field has a unit in its name and a default."""

from __future__ import annotations

import itertools
from typing import get_args

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.index.keys import Algorithm
from kvatlas.index.scores import DEFAULT_TIER_WEIGHTS
from kvatlas.ingest.index_config import IndexConfig
from kvatlas.ingest.stream.agreement import AgreementLimits
from kvatlas.ingest.stream.limits import StreamLimits


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known beforehand of one model."""

    block_size_tokens: int | None = None
    """Tokens in a block of the index, 1 to 4096. None: the smallest dense block announced. Set it
    where servers of one model differ: a smaller size that comes later empties the model's workers
    (mirrors keep keys, not tokens) until their blocks are announced again."""
    lora_names: dict[int, str] = {}
    """Names of LoRA adapters by the number that old servers send instead of a name."""
    attention_chunk_tokens: int = 0
    """Chunk of chunked local attention, which events do not tell, in tokens. 0: not known, then such
    groups count as full attention."""


class PodConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known beforehand of one pod."""

    model: str | None = None
    """Its model, where its topic does not say."""
    stores: tuple[str, ...] = ()
    """Stores of KV files that it reads; the first receives its storage events. Empty: one store per
    model, shared by the pods that announce on it."""
    gpu_blocks: int | None = None
    """Engine blocks that its gpu cache has, less the null block. Set, a worker that has missed the
    past is complete again as soon as so many copies are known."""
    offloads: bool | None = None
    """Whether it keeps blocks in CPU memory as well. False: a worker that has missed the past knows
    all of it after a clear; else what it offloaded before stays unknown until it restarts."""
    trust_absent_extras: bool = True
    """Whether events that do not say what is salted or multimodal (vLLM before 0.17) are taken for
    plain blocks. False: such a worker is DEGRADED. True: it is at best PARTIAL for prompts with a
    salt or multimodal items."""
    recomputes_last_block: bool = True
    """Of a prompt that is cached whole the engine computes the last block again."""
    drops_matched_block: bool = False
    """With EAGLE or MTP: the engine drops one more block of every match."""
    draft_groups: tuple[int, ...] = ()
    """KV-cache groups of the speculative decoder's own layers, where the engine keeps them apart."""
    offload_chunk_blocks: int = 1
    """Engine blocks that its offloading connector moves together, and that one file of a store holds."""
    announces: bool = False
    """It is no worker: it only announces the files of the first of `stores`, as evictors do. One that is
    called store:<store>#<name> needs no such word."""


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

    agreement: AgreementLimits = AgreementLimits()
    """When predictions of reuse that fail put a worker in doubt."""

    index: IndexConfig = IndexConfig()
    """Where the index is: in this process, or in a server that several share."""

    # Performance and bounds.
    stream: StreamLimits = StreamLimits()
    """Replay, silence and buffers of each worker's stream."""
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
    store_known_max: int = 1 << 20
    """Engine blocks per store whose meaning is kept for files to come, and files that wait for theirs."""
    workers_max: int = 8192
    """Workers at one time, and models ever; further ones are refused."""

    def __post_init__(self) -> None:
        algorithms = get_args(Algorithm)
        _check("algorithm", self.algorithm, self.algorithm in algorithms, f"one of {algorithms}")
        if self.index.kind == "remote" and self.index.server.format == "llmd":
            good = self.algorithm == "fnv64a_cbor"
            _check("algorithm", self.algorithm, good, "fnv64a_cbor, with which llm-d makes its keys")
        for name, low, high in _RANGES:
            value = getattr(self, name)
            _check(name, value, _is_int(value) and low <= value <= high, f"an int from {low} to {high}")
        for model, config in self.models.items():
            size = config.block_size_tokens
            path = f"models[{model!r}].block_size_tokens"
            good = size is None or (_is_int(size) and 1 <= size <= 4096)
            _check(path, size, good, "an int from 1 to 4096 or None")
            chunk = config.attention_chunk_tokens
            _check(
                f"models[{model!r}].attention_chunk_tokens", chunk, _is_int(chunk) and chunk >= 0, "an int"
            )
        for pod, at in self.pods.items():
            blocks, path = at.gpu_blocks, f"pods[{pod!r}].gpu_blocks"
            _check(path, blocks, blocks is None or (_is_int(blocks) and blocks > 0), "an int above 0 or None")
            blocks, path = at.offload_chunk_blocks, f"pods[{pod!r}].offload_chunk_blocks"
            _check(path, blocks, _is_int(blocks) and 1 <= blocks <= 4096, "an int from 1 to 4096")
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

    def attention_chunk_tokens(self, model: str) -> int:
        """Of a model's chunked local attention; 0: not known."""
        config = self.models.get(model)
        return config.attention_chunk_tokens if config is not None else 0


_RANGES = (
    ("shards", 1, 1024),
    ("table_bytes_max", 4 << 20, 1 << 44),
    ("ghosts_max", 1, 1 << 24),
    ("orphans_max", 0, 1 << 24),
    ("orphan_bytes_max", 0, 1 << 40),
    ("store_blocks_max", 0, (1 << 24) - 1),
    ("store_known_max", 0, (1 << 24) - 1),
    ("workers_max", 1, 65535),
)


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and value >= 0


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(path: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{path}: expected {expected}, got {value!r}")
