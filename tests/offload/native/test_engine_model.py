"""Random jobs, many at once, beside a model; jobs that run at the same time share neither keys nor rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.models.chunk_store import ChunkStore
from tests.offload.native.engine_rig import WAYS, Rig, key_of, names
from tests.profiles import examples

pytestmark = pytest.mark.native

N_KEYS, N_ROWS, ROW_BYTES = 12, 12, 4096
KINDS = ["store", "load", "probe", "remove"]

Round = list[tuple[str, list[int], list[int]]]
"""Jobs at once: kind, keys, rows (as many)."""


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    keys = draw(st.permutations(range(N_KEYS)))
    rows = draw(st.permutations(range(N_ROWS)))
    jobs: Round = []
    begin = 0
    for size in draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)):
        jobs.append((draw(st.sampled_from(KINDS)), keys[begin : begin + size], rows[begin : begin + size]))
        begin += size
    return [job for job in jobs if job[1]]


STEPS = st.lists(st.one_of(rounds(), st.tuples(st.just("damage"), st.integers(0, N_KEYS - 1))), max_size=8)


def run_round(rig: Rig, model: ChunkStore, jobs: Round) -> None:
    submitted = []
    for kind, keys, rows in jobs:
        with_rows = rows if kind in ("store", "load") else []
        submitted.append(rig.submit(kind, [key_of(key) for key in keys], with_rows))
    done = rig.collect(len(jobs))
    for (kind, keys, rows), job in zip(jobs, submitted, strict=True):
        expected = [
            getattr(model, kind)(key_of(key), row)
            if kind in ("store", "load")
            else getattr(model, kind)(key_of(key))
            for key, row in zip(keys, rows, strict=True)
        ]
        assert names(done[job]) == expected, (kind, keys)
        if kind in ("store", "load"):
            assert done[job].n_bytes == expected.count("OK") * ROW_BYTES
        for row, outcome in zip(rows, expected, strict=True):
            if outcome == "OK":
                assert rig.rows[row].tobytes() == model.rows[row]
            model.rows[row] = rig.rows[row].tobytes()  # undefined otherwise: as it is


def damage(rig: Rig, model: ChunkStore, key: bytes) -> None:
    if not model.damage(key):
        return
    with rig.path(key).open("r+b") as file:
        file.seek(16)
        file.write(b"\xff")


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=examples(60))
@given(steps=STEPS, readers=st.integers(1, 4), writers=st.integers(1, 4), ratio=st.integers(1, 4))
def test_random_jobs_end_as_the_model_says(
    way: str, steps: list[Round | tuple[str, int]], readers: int, writers: int, ratio: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = {"readers": readers, "writers": writers, "reads_per_write": ratio, **WAYS[way]}
        rig = Rig(Path(folder) / "part", n_rows=N_ROWS, row_bytes=ROW_BYTES, **options)
        try:
            for row in range(N_ROWS):
                rig.rows[row] = row
            model = ChunkStore([row.tobytes() for row in rig.rows])
            for step in steps:
                note(repr(step))
                if isinstance(step, tuple):
                    damage(rig, model, key_of(step[1]))
                else:
                    run_round(rig, model, step)
                assert rig.files() == {str(rig.path(key).relative_to(rig.folder)) for key in model.files}
            told = rig.engine.statistics()
            assert (told.open_jobs, told.hung, told.reading, told.writing) == (0, 0, 0, 0)
            assert told.staging_free_bytes == told.staging_bytes
        finally:
            assert rig.close()
