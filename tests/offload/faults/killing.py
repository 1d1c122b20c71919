"""Writers of a store that are killed at any instruction, and a look at what they leave.

Writers are forks of one process that has imported everything, so that a round takes a fraction of a second.
"""

from __future__ import annotations

import functools
import multiprocessing
import random
import time
from collections.abc import Iterable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import chunk_key
from kvatlas.offload.layout.reading import read_chunk
from tests.offload.faults.writing_process import N_CHUNKS, write_until_killed
from tests.offload.storing.files_at_hand import N_ROWS, Process, content_of, fields_of, key_of, open_process

NUMBER_OF_KEY = {key_of(number): number for number in range(N_CHUNKS)}
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pytest", "tests.offload.faults.writing_process"])
_SECONDS_MAX = 60.0


def start(root: Path, *seeds: int) -> list[ForkServerProcess]:
    """Returns once each has stored its first chunks."""
    writers, ends = [], []
    for seed in seeds:
        ours, theirs = _FORKS.Pipe(duplex=False)
        writer = _FORKS.Process(target=write_until_killed, args=(root, seed, theirs), daemon=True)
        writer.start()
        theirs.close()
        writers.append(writer)
        ends.append(ours)
    for end in ends:
        assert end.poll(_SECONDS_MAX) and end.recv() == "writing"
        end.close()
    return writers


def kill(writers: Iterable[ForkServerProcess]) -> None:
    running = list(writers)
    for writer in running:
        writer.kill()
    for writer in running:
        writer.join()
        assert writer.exitcode is not None and writer.exitcode < 0, "it ended before it was killed"
        writer.close()


def check_files(root: Path) -> int:
    """Every file with a chunk's name has exactly the bytes of its key. How many there are."""
    names = [path for path in root.rglob("*.kv") if not path.name.startswith(".")]
    for path in names:
        key = chunk_key(f"{path.parent.name}/{path.name}")
        assert key is not None, path
        try:
            _, payload = read_chunk(path, key=key, fingerprint=fields_of().fingerprint("all"))
        except StoreError as error:
            raise AssertionError(f"a file that does not verify: {error}") from error
        assert payload == _bytes_of(NUMBER_OF_KEY[key])
    return len(names)


@functools.cache
def _bytes_of(number: int) -> bytes:
    return content_of(number).tobytes()


def run_rounds(root: Path, n_rounds: int) -> tuple[int, int]:
    """Kills one writer or two in each. Returns the files there are in the end, and the kills' torn files."""
    n_files = n_torn = 0
    chance = random.Random(n_rounds)
    for number in range(n_rounds):
        _take_away(root, chance)
        n_torn -= len(_torn(root))
        _kill_in_the_midst(root, seed=1000 * number, n_writers=1 + number % 2)
        n_torn += len(_torn(root))
        n_files = check_files(root)
        assert n_files >= 16
        if number % 10 == 9 or number == n_rounds - 1:
            process = open_process(root)
            try:
                assert _check_loads(process) == n_files
                assert process.storage.statistics().counters["corrupt"] == 0
            finally:
                process.storage.close()
    return n_files, n_torn


def _take_away(root: Path, chance: random.Random) -> None:
    """Most of the files: what is there already is not written again, and nothing would be torn."""
    for path in root.rglob("*.kv"):
        if chance.random() < 0.8:
            path.unlink()


def _torn(root: Path) -> list[Path]:
    return list(root.rglob(".*.tmp"))


def _kill_in_the_midst(root: Path, seed: int, n_writers: int) -> None:
    writers = start(root, *range(seed, seed + n_writers))
    moment_s = random.Random(seed).random() * 0.05
    began_s = time.monotonic()
    while time.monotonic() - began_s < moment_s:
        pass  # any instruction: a sleep would end where the scheduler wakes
    kill(writers)


def _check_loads(process: Process) -> int:
    """Whatever can be loaded has its bytes. How many there are."""
    n_loaded = 0
    for first in range(0, N_CHUNKS, N_ROWS):
        done = process.load(*range(first, min(first + N_ROWS, N_CHUNKS)))
        loaded = [NUMBER_OF_KEY[key] for key in done.ok]
        assert process.holds(*loaded)
        n_loaded += len(loaded)
    return n_loaded
