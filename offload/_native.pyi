"""Native core of offloading. Source: offload/native/.

Every method may be called from any thread, and releases the GIL where it works, unless it says otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

_T = TypeVar("_T")

# --- chunk files: checksums, names, heads (chunk_file.hpp) --------------------------------------------------

HEAD_BYTES: int
FORMAT_VERSION: int
KEY_BYTES_MAX: int

def crc32c(data: Buffer | NDArray[Any], crc: int = 0, *, way: str | None = None) -> int:
    """The CRC-32C of what `crc` stood for followed by `data`; `way` names one of crc32c_ways(), for tests."""

def copy_crc32c(to: Buffer | NDArray[Any], from_: Buffer | NDArray[Any], *, way: str | None = None) -> int:
    """Copies, and returns the CRC-32C of what was copied. Raises InputError unless equally long."""

def crc32c_ways() -> list[str]:
    """How this processor can compute it, the one that is used last."""

def chunk_name(key: bytes) -> str:
    """The name of a key's file in its part: "abc/<hash>_g0.kv". Raises InputError for other lengths."""

def chunk_key(name: str) -> bytes | None:
    """The key of such a name, with its folder or without; None: not a chunk file's."""

def file_bytes(payload_bytes: int) -> int:
    """The exact size of a chunk file."""

def encode_head(
    *,
    key: bytes,
    fingerprint: bytes,
    payload_bytes: int,
    payload_crc32c: int,
    writer: bytes,
    written_ms: int,
    blocks: int = 1,
    valid_blocks: int = 1,
) -> bytes:
    """A head of HEAD_BYTES. Raises InputError for values out of range."""

def read_head(page: Buffer) -> ChunkHead:
    """Raises StoreError, with the reason, unless a head of this version; InputError unless HEAD_BYTES."""

class ChunkHead:
    """What a chunk file says of itself; docs/offload_format.md."""

    @property
    def key(self) -> bytes: ...
    @property
    def fingerprint(self) -> bytes: ...
    @property
    def payload_bytes(self) -> int: ...
    @property
    def payload_crc32c(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def valid_blocks(self) -> int: ...
    @property
    def writer(self) -> bytes: ...
    @property
    def written_ms(self) -> int:
        """Milliseconds since 1970, by the writer's clock."""

# --- the I/O engine (engine.hpp) ----------------------------------------------------------------------------

OK: int
PRESENT: int
"""Of a store: the file was there."""
ABSENT: int
CORRUPT: int
"""The file was not what its name says; it has been removed."""
FAILED: int
NO_SPACE: int
READ_ONLY: int
TIMED_OUT: int
"""Given up while a thread was at it, or before: it may still be done."""
CANCELLED: int
"""Never begun."""

def numa_node_of_pci(address: str, *, sysfs: str = "/sys") -> int:
    """The node of a PCI device such as "0000:3b:00.0"; -1: not known."""

def cpus_of_node(node: int, *, sysfs: str = "/sys") -> list[int]:
    """Processors of a NUMA node; none: no such node."""

class FinishedJob:
    """What became of a job."""

    @property
    def job(self) -> int: ...
    @property
    def outcomes(self) -> bytes:
        """[n_keys] of the numbers above."""
    @property
    def n_bytes(self) -> int:
        """Of payload, of the chunks whose outcome is OK."""
    @property
    def seconds(self) -> float:
        """From submission to the end."""
    @property
    def error_number(self) -> int:
        """errno of the first failure; 0: none."""
    @property
    def error(self) -> str:
        """What was done to which file, and why that failed; empty: nothing failed, or only the time limit."""

class EngineStatistics:
    """Now, as far as EngineStatistics.jobs; from there on since the start."""

    @property
    def open_jobs(self) -> int: ...
    @property
    def finished_jobs(self) -> int:
        """Not yet collected."""
    @property
    def queued_reads(self) -> int:
        """Chunks of loads and probes that wait."""
    @property
    def queued_writes(self) -> int: ...
    @property
    def reading(self) -> int:
        """Chunks that threads are at."""
    @property
    def writing(self) -> int: ...
    @property
    def hung(self) -> int:
        """Of these two, chunks that have been given up."""
    @property
    def threads(self) -> int: ...
    @property
    def staging_bytes(self) -> int: ...
    @property
    def staging_free_bytes(self) -> int: ...
    @property
    def is_staging_locked(self) -> bool:
        """In physical memory: the process's limit allowed it."""
    @property
    def is_direct(self) -> bool:
        """Files are opened with O_DIRECT; the file system has not refused it."""
    @property
    def is_uring(self) -> bool: ...
    @property
    def is_pinned(self) -> bool:
        """Threads stay on the processors of their NUMA node."""
    @property
    def stages_stores(self) -> bool:
        """Rows are not page-aligned: they are copied before they are written."""
    @property
    def jobs(self) -> dict[str, int]:
        """Taken, by kind: store, load, probe, remove."""
    @property
    def chunks(self) -> dict[str, int]: ...
    @property
    def outcomes(self) -> dict[str, dict[str, int]]:
        """Chunks by kind, then by the lower-case name of the outcome."""
    @property
    def faults(self) -> dict[str, int]:
        """Why files were CORRUPT."""
    @property
    def stored_bytes(self) -> int:
        """Of payload, as the next."""
    @property
    def loaded_bytes(self) -> int: ...
    @property
    def refused_chunks(self) -> int:
        """There was no room in the queue, or the engine was closed."""
    @property
    def staging_waits(self) -> int:
        """Times that a thread found no buffer for a chunk that waited."""
    @property
    def hung_total(self) -> int:
        """Chunks given up while a thread was at them."""
    @property
    def read_queue_seconds(self) -> float:
        """That chunks waited, summed."""
    @property
    def write_queue_seconds(self) -> float: ...
    @property
    def direct_refusals(self) -> int:
        """Times that the file system refused O_DIRECT."""
    @property
    def stale_retries(self) -> int:
        """Times that a file was opened again after ESTALE."""
    @property
    def open_file_limits(self) -> int:
        """Files not opened because too many were open."""
    @property
    def removed_corrupt(self) -> int: ...
    @property
    def temporary_left(self) -> int:
        """Temporary files that could not be removed; an evictor will."""

class Engine:
    """Moves rows of memory to chunk files and back, with threads of its own; offload/native/engine.hpp."""

    def __init__(
        self,
        memory: Buffer,
        row_bytes: int,
        folder: str,
        fingerprint: bytes,
        *,
        writer: bytes,
        key_bytes: int,
        blocks: int = 1,
        readers: int = 8,
        writers: int = 8,
        reads_per_write: int = 4,
        staging_bytes: int = ...,
        queued_max: int = 8192,
        time_limit_s: float = 30.0,
        direct: bool = True,
        uring: bool = True,
        sync: bool = False,
        ring_depth: int = 4,
        numa_node: int = -1,
    ) -> None:
        """`fingerprint` and `writer`: 16 bytes. readers, writers, reads_per_write, queued_max: chunks.

        `time_limit_s` counts from submission. Holds `memory` until it is closed. Touches no file.
        Raises InputError for values out of range, StoreError when there is no memory, thread or descriptor.
        """
    @property
    def event_fd(self) -> int:
        """Readable when finished() has something."""
    def submit_store(self, job: int, keys: Buffer, rows: NDArray[np.int32]) -> bool:
        """Packed keys, and the row of each. False: no room, nothing was taken.

        Waits for no file system, as the next three. Raises InputError: a wrong length, no such row, or the
        number of an open job.
        """
    def submit_load(self, job: int, keys: Buffer, rows: NDArray[np.int32]) -> bool:
        """The bytes of a row whose outcome is not OK are undefined."""
    def submit_probe(self, job: int, keys: Buffer) -> bool:
        """OK: the file is there, with the right size and a good head."""
    def submit_remove(self, job: int, keys: Buffer) -> bool: ...
    def finished(self) -> list[FinishedJob]:
        """Jobs that have ended since the last call."""
    def cancel(self, job: int) -> bool:
        """Cancels what of a job waits; the rest goes on. False: no such open job."""
    def drain(self, seconds: float) -> bool:
        """Waits until no job is open. False: some are."""
    def give_up(self) -> None:
        """Ends all open jobs: CANCELLED what waited, TIMED_OUT the rest. Their rows are touched no more."""
    def close(self, seconds: float = 5.0) -> bool:
        """Cancels what waits, waits for the rest, gives it up, lets go of `memory`. False: threads hang."""
    def statistics(self) -> EngineStatistics: ...

# --- slots of pinned memory (slots.hpp) ---------------------------------------------------------------------

class Slots:
    """Which key lies in which slot of pinned memory: free, FILLING, or READY and then pinned or not."""

    ABSENT: ClassVar[int]
    FILLING: ClassVar[int]

    def __init__(self, n_slots: int, key_bytes: int) -> None:
        """Raises InputError outside 1 to 2^30 - 1 slots and 1 to 1024 bytes."""

    def find(self, key: bytes) -> int:
        """The slot of a key that is READY, else ABSENT or FILLING. Far below a microsecond; keeps the GIL."""

    def fill(self, keys: Buffer) -> tuple[NDArray[np.int32], bytes] | None:
        """Takes a slot for each packed key that has none: ([n] slots, -1 for others; packed keys evicted).

        None: no room, nothing was taken. Evicts what is READY, not pinned, not of `keys`, the least recently
        used first.
        """

    def ready(self, slots: NDArray[np.int32]) -> None:
        """FILLING to READY. Raises InputError, and changes nothing, for others."""

    def drop(self, slots: NDArray[np.int32]) -> None:
        """FILLING or READY to free. Raises InputError, and changes nothing, for free or pinned ones."""

    def pin(self, keys: Buffer) -> NDArray[np.int32]:
        """One more pin on each key that is READY: [n] slots; others give ABSENT or FILLING, and no pin."""

    def unpin(self, keys: Buffer) -> None:
        """One pin less. Raises InputError, and changes nothing, where there is none."""

    def touch(self, keys: Buffer) -> None:
        """Makes those of the keys that are READY the most recently used."""

    def clear(self) -> None:
        """Forgets what is READY and not pinned."""

    def statistics(self) -> SlotStatistics: ...

class SlotStatistics:
    """Slots by state now; and since the start what was filled, evicted, dropped, and fills refused."""

    @property
    def slots(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def filling(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def pinned(self) -> int: ...
    @property
    def filled(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def refused(self) -> int: ...

class Catalogue:
    """What is known of a store's keys, the least recently used forgotten; times by the caller's clock."""

    UNKNOWN: ClassVar[int]
    PRESENT: ClassVar[int]
    ABSENT: ClassVar[int]
    ASKED: ClassVar[int]

    def __init__(self, entries_max: int, key_bytes: int, absent_s: float) -> None:
        """`absent_s`: how long an ABSENT is believed. An entry takes 40 bytes and its key."""

    def find(self, key: bytes, now_s: float) -> int:
        """UNKNOWN, PRESENT, ABSENT or ASKED. Keeps the GIL: well below a microsecond."""

    def present_of(self, keys: Sequence[bytes], now_s: float) -> list[bytes]:
        """Those of the keys that find says PRESENT of, none of another length. Keeps the GIL."""

    def ask(self, key: bytes) -> bool:
        """Has take_asked give the key out, whatever was known of it. False: no room, all known keys wait."""

    def take_asked(self, most: int) -> bytes:
        """Up to `most` packed keys, each once, oldest first. ASKED until set, forgotten or evicted."""

    def set(self, keys: Buffer, state: int, now_s: float) -> None:
        """Packed keys are now PRESENT, or ABSENT for `absent_s`."""

    def answer(self, keys: Buffer, outcomes: Buffer, now_s: float) -> None:
        """Packed keys, each PRESENT where its byte of `outcomes` is 0, else ABSENT for `absent_s`."""

    def forget(self, keys: Buffer) -> None: ...
    def statistics(self) -> CatalogueStatistics: ...

class CatalogueStatistics:
    """Keys by state now; and since the start what was evicted, expired, and refused for want of room."""

    @property
    def entries_max(self) -> int: ...
    @property
    def present(self) -> int: ...
    @property
    def absent(self) -> int: ...
    @property
    def asked(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def refused(self) -> int: ...

class Lookups:
    """Answers the lookups of one engine core from a Catalogue, and counts the answers. One thread.

    All are ABSENT while `is_down`, and keys of another length always. What is not known becomes ASKED: the
    catalogue's take_asked gives it out.
    """

    is_down: bool
    trial_key: bytes | None
    """What was looked up last while `is_down`; None: nothing, or what was set."""

    def __init__(self, catalogue: Catalogue) -> None: ...
    def look_up(self, key: bytes, now_s: float) -> int:
        """PRESENT, ABSENT or ASKED. Keeps the GIL, as do functions from `answering`."""

    def answering(self, *, present: _T, absent: _T, asked: _T) -> Callable[[bytes, object], _T]:
        """look_up by time.monotonic, as a function (key, req_context) whose answer is one of these."""

    @property
    def counts(self) -> LookupCounts: ...

class LookupCounts:
    """Lookups since the start by what was answered."""

    @property
    def present(self) -> int: ...
    @property
    def absent(self) -> int: ...
    @property
    def asked(self) -> int: ...
    @property
    def down(self) -> int: ...
    @property
    def foreign(self) -> int: ...

# --- copies between device memory and slots (copies.hpp) ----------------------------------------------------

class CopierStatistics:
    """What a Copier did, in all, and what it holds now."""

    stores: int
    """Jobs that ended."""
    loads: int
    stored_bytes: int
    loaded_bytes: int
    store_seconds: float
    """Of the copies, without what they waited for."""
    load_seconds: float
    failed_jobs: int
    refused_jobs: int
    """Of the failed ones: as many as jobs_max ran."""
    running_jobs: int
    unread_jobs: int
    is_pinned: bool
    """The device reaches the rows without a detour."""
    is_lost: bool
    """Every job fails."""
    first_error: str
    copies: int
    """Runs of bytes, neighbours joined."""
    streamed_copies: int
    """Of the host: past the caches."""
    batched_copies: int
    """Of CUDA: by cuMemcpyBatchAsync."""
    single_copies: int
    gathered_copies: int
    """Of CUDA: by the kernel for small runs."""
    gathers_refused: int
    """Small runs that went another way, for all descriptor buffers were in use."""
    device_errors: int

class Copier:
    """Moves KV blocks between a device's tensors and rows of host memory; one for each worker of an engine.

    Jobs run beside the caller, those of one direction in the order of their submission. A failed copy fails
    its job; a lost device fails all, and no method waits for it. Block `b` of a tensor lies at
    `address + b * stride_bytes`, and place `s` of a chunk at `row_offset + s * page_bytes` of its row.
    """

    def __init__(
        self,
        memory: Buffer | NDArray[np.uint8],
        row_bytes: int,
        *,
        device: str,
        driver: str | None = None,
        blocks_per_chunk: int,
        tensors: Sequence[tuple[int, int, int, int]],
        groups: Sequence[Sequence[tuple[int, int]]],
        page_bytes: Sequence[int] | None = None,
        host_threads: int = 2,
        jobs_max: int = 16384,
        time_limit_s: float = 120.0,
        gather_loads_below_bytes: int = 28672,
        gather_stores_below_bytes: int = 0,
        gather_least: int = 16,
    ) -> None:
        """`device`: "host" or "cuda:N"; `driver`: libcuda's path.

        `tensors`: (address, n_blocks, stride_bytes, row_offset), and `page_bytes` where pages are no strides.
        `groups`: for each of them (tensor, bytes of a block that the group uses).
        A CUDA job's runs below `gather_*_below_bytes` go by a kernel, if there are `gather_least` of them.

        Raises InputError, and StoreError when the device cannot be used. The tensors must outlive close().
        """

    def submit_store(
        self,
        job: int,
        block_ids: NDArray[np.int32],
        group_sizes: NDArray[np.int32],
        block_indices: NDArray[np.int32],
        rows: NDArray[np.int32],
        after_stream: int = 0,
    ) -> None:
        """Device to rows, after what `after_stream` (a CUstream; 0: the default one) has to do by now.

        `rows` has one for each chunk that a group's blocks fall into, group after group.
        Raises InputError, and nothing was taken.
        """

    def submit_load(
        self,
        job: int,
        block_ids: NDArray[np.int32],
        group_sizes: NDArray[np.int32],
        block_indices: NDArray[np.int32],
        rows: NDArray[np.int32],
        after_stream: int = 0,
    ) -> None:
        """Rows to device, likewise."""

    def finished(self) -> list[tuple[int, bool, int, float]]:
        """Jobs that ended since the last call: (job, is_ok, bytes, seconds)."""

    def wait(self, jobs: Sequence[int]) -> None:
        """Return when none of these runs; finished() still tells of them."""

    def close(self, seconds: float = 5.0) -> bool:
        """End all jobs, or give the device up after `seconds`: then False, and `memory` is held for ever."""

    def statistics(self) -> CopierStatistics: ...
    @property
    def device(self) -> str:
        """What it copies with, for people."""

    @property
    def pci_address(self) -> str | None:
        """Of the device, in lower case, such as "0000:3b:00.0"; None: the host."""

class DirectStatistics:
    """What DirectFiles did, in all, in chunks."""

    loaded_chunks: int
    stored_chunks: int
    present_chunks: int
    """Stores that found the file."""
    failed_chunks: int
    corrupt_chunks: int
    """Files that were not what their names say; they are removed."""
    unverified_chunks: int
    """Of the loaded ones: nobody has looked at their checksum."""
    timed_out_chunks: int
    refused_jobs: int
    open_chunks: int
    """Now."""

class DirectFiles:
    """Chunk files of one part straight from and to a GPU's memory, by cuFile (GPUDirect Storage).

    `mode` "bounce": a payload goes through a buffer on the GPU, and is verified before a byte of it reaches a
    block. "full", "read_only", "write_only": from and to the blocks themselves; what the first two load
    is not verified, and has no time limit, for late bytes could land in another request's block: both need
    `allow_unverified`. Stores carry a checksum in every mode.
    """

    def __init__(
        self,
        folder: str,
        row_bytes: int,
        fingerprint: bytes,
        *,
        device: str,
        mode: str,
        writer: bytes,
        key_bytes: int,
        blocks_per_chunk: int,
        tensors: Sequence[tuple[int, int, int, int]],
        groups: Sequence[Sequence[tuple[int, int]]],
        page_bytes: Sequence[int] | None = None,
        driver: str | None = None,
        library: str | None = None,
        allow_unverified: bool = False,
        threads: int = 4,
        chunks_max: int = 8192,
        time_limit_s: float = 30.0,
    ) -> None:
        """`folder`, `row_bytes`, `fingerprint`, `writer`: as Engine's; the layout: as Copier's.

        `library`: libcufile's path. The tensors must outlive close().
        Raises InputError, and StoreError when the GPU or cuFile cannot be used.
        """

    def submit_store(
        self,
        job: int,
        keys: bytes,
        block_ids: NDArray[np.int32],
        group_sizes: NDArray[np.int32],
        block_indices: NDArray[np.int32],
        after_stream: int = 0,
    ) -> bool:
        """Whole chunks to files, after what `after_stream` has to do by now.

        False: chunks_max are open, or as many jobs unread; nothing was taken.
        """

    def submit_load(
        self,
        job: int,
        keys: bytes,
        block_ids: NDArray[np.int32],
        group_sizes: NDArray[np.int32],
        block_indices: NDArray[np.int32],
        after_stream: int = 0,
    ) -> bool:
        """Files to blocks, likewise; of the first and the last chunk perhaps a part."""

    def finished(self, wait_s: float = 0.0) -> list[tuple[int, bytes, int, float, bool, str]]:
        """Jobs that ended since the last call; where there is none, waits for one, `wait_s` at most.

        Each: (job, outcomes [n_chunks] as Engine's, bytes, seconds, is_verified, first error).
        """

    def statistics(self) -> DirectStatistics: ...
    def close(self, seconds: float = 5.0) -> bool:
        """Begin nothing more; False: a call hangs, and keeps what it holds."""
