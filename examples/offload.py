"""A store of KV files without a GPU or a model server: what KvatlasTier does for vLLM, step by step.

    python examples/offload.py

An engine writes chunks, another one on the same folder loads them, a harmed file is a miss, and what was not
used for longest goes when the store is full.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kvatlas.offload._native import chunk_key
from kvatlas.offload.layout.fingerprint import GroupFields, SpaceFields
from kvatlas.offload.storing.known import ASKED, PRESENT
from kvatlas.offload.storing.opening import open_storage
from kvatlas.offload.storing.settings import StorageSettings
from kvatlas.offload.storing.storage import Done

ROW_BYTES = 64 * 1024  # of a chunk; in a real model one to some megabytes
FILE_BYTES = ROW_BYTES + 4096  # with its head
N_ROWS = 32
CAPACITY_BYTES = 40 * FILE_BYTES

# Everything that decides the bytes of a chunk. Engines that differ in any of it share no file.
FIELDS = SpaceFields(
    engine_version="0.32.0",
    device="cpu-x86",
    model="some/model",
    dtype="float32",
    groups=(GroupFields(group_id=0, tokens_per_block=16, layer_names=("layers.0", "layers.1")),),
    tokens_per_hash=16,
    blocks_per_chunk=1,
    row_bytes=ROW_BYTES,
    worker_bytes_per_block=ROW_BYTES,
    world_size=1,
    tp_size=1,
    pp_size=1,
    pcp_size=1,
    dcp_size=1,
    replicated_layout=False,
    canonical_layout=False,
    kv_cache_layout="",
    hash_algorithm="sha256",
    hash_seed="default",
)


def key_of(chunk: int) -> bytes:
    """As vLLM names a chunk: the hash of its last block, and the number of its cache group."""
    return hashlib.sha256(b"chunk %d" % chunk).digest() + (0).to_bytes(4, "big")


def kv_of(chunk: int) -> npt.NDArray[np.uint8]:
    """What a model would have computed for it."""
    return np.random.default_rng(chunk).integers(0, 256, ROW_BYTES, np.uint8)


class Engine:
    """Rows of host memory, and a store behind them. Row n is for chunk n, modulo the rows."""

    def __init__(self, root: Path, capacity_bytes: int | None = None) -> None:
        self._memory = mmap.mmap(-1, N_ROWS * ROW_BYTES)
        self.rows = np.frombuffer(self._memory, np.uint8).reshape(N_ROWS, ROW_BYTES)
        settings = StorageSettings(
            root=str(root), name="example", capacity_bytes=capacity_bytes, free_bytes_min=0
        )
        self.storage = open_storage(settings, FIELDS, self._memory)

    def steps_until(self, is_so: Callable[[], bool]) -> None:
        """An engine ends its steps so; nothing in them waits for the store."""
        deadline_s = time.monotonic() + 30
        while not is_so():
            assert time.monotonic() < deadline_s
            self.storage.end_step()
            time.sleep(0.001)

    def present(self, chunks: Sequence[int]) -> list[int]:
        """A first lookup asks the store, all keys of a step at once; a later one has the answer."""
        answers: list[int] = []

        def are_known() -> bool:
            answers[:] = [self.storage.lookup(key_of(chunk)) for chunk in chunks]
            return ASKED not in answers

        self.steps_until(are_known)
        return [chunk for chunk, answer in zip(chunks, answers, strict=True) if answer == PRESENT]

    def store(self, chunks: Sequence[int]) -> Done:
        rows = np.array([chunk % N_ROWS for chunk in chunks], np.int32)
        for chunk, row in zip(chunks, rows, strict=True):
            self.rows[row] = kv_of(chunk)
        self.storage.store(1, [key_of(chunk) for chunk in chunks], rows)
        return self._end()

    def load(self, chunks: Sequence[int]) -> Done:
        rows = np.array([chunk % N_ROWS for chunk in chunks], np.int32)
        self.rows[rows] = 0
        self.storage.load(2, [key_of(chunk) for chunk in chunks], rows)
        return self._end()

    def take_removals(self) -> set[bytes]:
        """Keys that are told to be gone since the last call; an engine publishes them among its KV events."""
        told = self.storage.take_announcements()
        return {key for one in told if one.is_removal for key in one.keys}

    def has(self, chunk: int) -> bool:
        return bool((self.rows[chunk % N_ROWS] == kv_of(chunk)).all())

    def _end(self) -> Done:
        ended: list[Done] = []

        def has_ended() -> bool:
            ended.extend(self.storage.finished())
            return bool(ended)

        self.steps_until(has_ended)
        return ended[0]


def store_all(engine: Engine, chunks: Sequence[int]) -> None:
    """A store without room drops what it is given, and evicts; here it is given it again."""
    left = list(chunks)

    def is_stored() -> bool:
        done = set(engine.store(left[:4]).ok)
        left[:] = [chunk for chunk in left if key_of(chunk) not in done]
        return not left

    engine.steps_until(is_stored)


def files_of(root: Path) -> list[Path]:
    return sorted(root.glob("*/all/*/*.kv"))


def key_of_file(file: Path) -> bytes:
    key = chunk_key(file.name)
    assert key is not None
    return key


def harm(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def let_an_hour_pass(root: Path) -> None:
    """A file's date is its last use; what was used within a minute would not be deleted."""
    for file in files_of(root):
        last_use_s = file.stat().st_mtime - 3600
        os.utime(file, (last_use_s, last_use_s))


def main(root: Path) -> None:
    first, second = Engine(root), Engine(root)
    store_all(first, range(24))
    print(f"first engine: 24 chunks stored, {len(files_of(root))} files")
    told = [len(one.keys) for one in first.storage.take_announcements() if not one.is_removal]
    print(f"first engine: {sum(told)} announced")

    print(f"second engine: {len(second.present(range(32)))} of 32 chunks are there")
    done = second.load(range(24))
    print(f"second engine: {len(done.ok)} loaded, all right: {all(map(second.has, range(24)))}")

    harm(files_of(root)[0])
    done = second.load(range(24))
    print(f"one bit of one file flipped: {len(done.ok)} loaded, {len(done.failed)} missed, and is computed")
    (harmed,) = (chunk for chunk in range(24) if key_of(chunk) in done.failed)
    store_all(second, [harmed])
    print(f"and written anew: {second.load([harmed]).ok == [key_of(harmed)]}")

    counters = second.storage.statistics().counters
    print("second engine:", {name: int(counters[name]) for name in ("loaded", "corrupt", "stored")})
    for engine in (first, second):
        engine.storage.close()

    let_an_hour_pass(root)
    third = Engine(root, CAPACITY_BYTES)
    third.steps_until(lambda: third.storage.statistics().counters["inventory"] == 24)
    print("an hour later a third engine finds 24, and may keep 40")
    store_all(third, range(24, 48))
    print(f"24 more: at most 40 files: {len(files_of(root)) <= 40}")
    print(f"the new ones are there: {third.present(range(24, 48)) == list(range(24, 48))}")
    gone = set(map(key_of, range(48))) - {key_of_file(file) for file in files_of(root)}
    removed: set[bytes] = set()

    def are_told() -> bool:
        removed.update(third.take_removals())
        return removed >= gone

    third.steps_until(are_told)
    print(f"removals announced: {removed == gone}")
    third.storage.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder) / "store")
