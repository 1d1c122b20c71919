"""Native core of ingest: decoding, mirrors, stores. Source: ingest/native/."""

from collections.abc import Sequence
from typing import Any

from kvatlas.index._native import Keyspace, Table

class Decoder:
    """A decoded batch. One thread at a time."""

    def __init__(self) -> None: ...
    def decode(self, payload: bytes) -> None:
        """Decode a payload, replacing the last one. Raises DecodeError when it is no batch at all."""
    @property
    def rank(self) -> int:
        """Data-parallel rank; -1: not given."""
    @property
    def ts(self) -> float | None: ...
    @property
    def n_events(self) -> int: ...
    @property
    def group_mask(self) -> int:
        """Bits of the groups named by stores."""
    @property
    def full_groups(self) -> int:
        """Bits of those whose last kind in the batch is full attention."""
    @property
    def other_groups(self) -> int:
        """Bits of those whose last kind in the batch is another one."""
    @property
    def store_tiers(self) -> int:
        """Tier bits of disk and storage, where stores name them."""
    @property
    def dense_block_size(self) -> int:
        """Tokens: the smallest of the batch's dense gpu stores, 0 without one."""
    @property
    def clean(self) -> bool:
        """Nothing bad, unknown or broken in the batch."""
    @property
    def bad_events(self) -> int: ...
    @property
    def unknown_events(self) -> int: ...
    @property
    def broken(self) -> bool: ...

class Store:
    """What lies in one store of KV files. Any thread may call any method."""

    def __init__(self, lane: int, blocks_max: int = ...) -> None:
        """At most `blocks_max` engine blocks are kept."""
    @property
    def lane(self) -> int: ...
    def clear(self) -> None: ...
    def keys(self) -> set[int]:
        """Block keys held."""
    def __len__(self) -> int:
        """Engine blocks held."""

class Mirror:
    """The exact content of one worker's cache. Any thread may call any method; calls take turns."""

    def __init__(
        self,
        keyspace: Keyspace,
        n_shards: int = 1,
        ghosts_max: int = 8192,
        orphans_max: int = 4096,
        orphan_bytes_max: int = ...,
    ) -> None: ...
    def set_lane(self, group: int, lane: int, full_attention: bool = True) -> None: ...
    def set_stores(self, disk: Store | None, storage: Store | None, attached: Sequence[Store]) -> None: ...
    def set_lora_names(self, names: dict[int, str]) -> None: ...
    def set_tables(self, tables: Sequence[Table]) -> None:
        """Where `apply` sends its deltas: one table a shard."""
    def apply(self, batch: Decoder, told: bool = False) -> bool:
        """Apply a batch and its deltas.

        False, and nothing done, when lanes or stores must be set first (unless `told`).
        """
    def gather(self, batch: Decoder) -> None:
        """Apply a batch; its deltas wait for `take`."""
    def take(self) -> list[bytes]:
        """The delta records gathered, one buffer a shard."""
    def content(self, n_shards: int) -> list[bytes]:
        """Everything held as delta records for so many shards: lanes cleared, then filled."""
    def restart(self, keyspace: Keyspace) -> None:
        """Forget everything and go on in this keyspace; deltas clear the lanes."""
    def residency(self) -> dict[int, dict[int, int]]:
        """Tier bits by block key, by group. For tools and tests."""
    def counts(self) -> dict[str, int]: ...
    def sizes(self) -> dict[str, Any]: ...

def decode_events(payload: bytes) -> tuple[float | None, int | None, list[Any], list[str], int]:
    """A payload as plain objects, for comparison with the plain decoder."""
