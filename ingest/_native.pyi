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
    def checksum(self) -> int:
        """Of the payload, as `checksum` has it."""
    def groups(self) -> list[tuple[int, str | None, int, int]]:
        """Group, kind, window and block size in tokens of each store; None and 0: not said.

        Block sizes are those of gpu stores: elsewhere chunks have others.
        """
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
    """What lies in one store of KV files, and what its engine keys mean. Any thread may call any method.

    Deltas are buffers of delta records, one a shard; changes are (segment key, block key, is resident).
    """

    def __init__(self, lane: int, blocks_max: int = ..., known_max: int = ...) -> None:
        """At most `blocks_max` engine blocks are resident; of at most `known_max` besides the meaning is
        kept, and so many files wait for theirs."""
    @property
    def lane(self) -> int: ...
    def clear(self) -> None: ...
    def forget_meanings(self) -> None:
        """Block keys are others now: its files wait. The lane is the caller's to clear."""
    def retire(self) -> None:
        """Forget all, and take nothing any more."""
    def need_groups(self, groups: int, n_shards: int, tiers: int) -> list[bytes]:
        """A file counts once it is there for all these groups, as bits. Deltas."""
    def keys(self) -> set[int]:
        """Block keys held."""
    def statistics(self) -> dict[str, int]: ...
    def save(self, index_block_tokens: int) -> bytes:
        """All of it, for `load`. What changes meanwhile may be in it or not."""
    def load(self, saved: bytes, index_block_tokens: int) -> None:
        """Fill an empty store. CheckpointError, and it stays empty, for what `save` would not write."""
    def content(self, n_shards: int, tiers: int) -> list[bytes]:
        """Everything as delta records: the lane cleared, then filled in these tier bits."""
    def __len__(self) -> int:
        """Engine blocks held."""

    # What mirrors do, for tests.

    def teach(
        self, lessons: Sequence[tuple[int, int, int, int, int, Sequence[int]]]
    ) -> list[tuple[int, int, bool]]:
        """Engine key, parent or 0, engine block size, number of the first index block, key of its segment,
        block keys. Changes."""
    def hold(
        self, engine_key: int, group: int = 0, chunk_blocks: int = 1, time_s: float = ..., owner: int = 0
    ) -> tuple[str, list[tuple[int, int, bool]]]:
        """now, before, waits, stale or no_room; and changes."""
    def release(
        self, engine_keys: Sequence[int], group: int = 0, time_s: float = ...
    ) -> tuple[int, list[int], list[tuple[int, int, bool]]]:
        """How many were removed, those that were not there, changes."""
    def begin_inventory(self, owner: int, time_s: float = ...) -> None: ...
    def end_inventory(self, owner: int) -> tuple[int, list[tuple[int, int, bool]]]:
        """Files that were not named, and changes."""
    def cancel_inventory(self, owner: int) -> None: ...

class Snapshot:
    """A mirror's content at one moment, being written down. Dropping it abandons it."""

    def part(self, bytes_max: int = ...) -> bytes | None:
        """The next part, of about so many bytes (256 KiB); None: that was all.

        A batch waits for one part at most: 256 KiB are half a millisecond.
        Raises CheckpointError when a clear, a doubt or a restart of the mirror has ended it.
        """

class DeltaLog:
    """Delta records of many mirrors in the order in which they were made. Any thread may call."""

    def __init__(self, bytes_max: int) -> None:
        """Where more would wait, all is dropped and `lost` rises."""
    def append(self, delta: bytes) -> None:
        """Raises InputError for what are no whole records."""
    def take(self) -> bytes:
        """The oldest piece, some 4 MiB at most unless one delta is larger; empty: nothing waits."""
    def __len__(self) -> int:
        """Bytes that wait."""
    @property
    def lost(self) -> int:
        """Times that what waited was dropped."""

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
    def set_stores(
        self,
        disk: Store | None,
        storage: Store | None,
        attached: Sequence[Store],
        storage_is_shared: bool = True,
    ) -> None:
        """No `storage`, and not `storage_is_shared`: its events are counted and left out."""
    def set_chunk_blocks(self, blocks: int) -> None:
        """Blocks of a file whose announcement does not tell."""
    def set_announcer(self) -> None:
        """It is no worker: only what it says of its storage's files counts."""
    def set_lora_names(self, names: dict[int, str]) -> None: ...
    def set_tables(self, tables: Sequence[Table]) -> None:
        """Where `apply` sends its deltas: one table a shard."""
    def set_log(self, log: DeltaLog) -> None:
        """Where `apply` sends its deltas instead; for mirrors of one shard."""
    def set_engine_keys(self, log: DeltaLog | None) -> None:
        """Where engine keys and their block keys are told from now on (index/remote/llmd/engine_keys.py has
        the records), those known already at once; None: nowhere, which costs nothing. A log of its own."""
    def tell_engine_keys(self) -> None:
        """All that are known, once more: after a loss in the log, or a restore."""
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
    def doubt(self) -> None:
        """Batches were lost for good: all copies held become stale, waiting orphans are dropped."""
    def claims(self) -> dict[str, int]:
        """What the mirror knows of its own exactness; cheap. Counts of (block, group).

        `maybe_gpu`, `maybe_cpu`: perhaps held by the engine, not counted as held.
        `orphans_waiting`: blocks that wait for a parent.
        `lost_blocks`: announced on gpu, not kept or placed; until a clear or restart.
        `lost_offloaded`: the same in cpu or an unknown tier; until a restart. `lost_stored`: in a store.
        `unindexed_held`: held without block keys. `unlinked_parts`: parts forgotten and known again.
        `stale`: copies held (block, group, tier) that may be gone since the last `doubt`.
        `gpu_copies`: copies on gpu counted, over all groups.
        `extras_absent`: events without extra keys since a restart.
        `offloaded`: blocks stored or removed in CPU memory since a restart. `clears`: of gpu, ever.
        """
    def begin_snapshot(self) -> Snapshot:
        """Write down the content as it is now, while batches go on being applied.

        Raises CheckpointError while another is under way.
        """
    def restore(self, parts: Sequence[bytes]) -> None:
        """Read back a snapshot's parts; groups' lanes must be set. No deltas: `content` has them.

        Raises InputError unless nothing is known yet, CheckpointError for what no mirror would have
        written: then nothing is known.
        """
    @property
    def claims_changed(self) -> int:
        """Another number when a claim came to be or ceased to be zero, or the gpu was cleared."""

def checksum(payload: bytes) -> int:
    """A fast 64-bit checksum of a batch's bytes; tells batches apart, but not forged ones."""

def decode_events(payload: bytes) -> tuple[float | None, int | None, list[Any], list[str], int]:
    """A payload as plain objects, for comparison with the plain decoder."""
