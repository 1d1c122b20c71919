"""Files that others have harmed: a load gives the bytes that were stored, or none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvatlas.offload._native import chunk_name, file_bytes
from kvatlas.offload.layout.space import open_space
from tests.offload.storing.files_at_hand import ROW_BYTES, Process, fields_of, key_of, open_process, wait_for

FILE_BYTES = file_bytes(ROW_BYTES)
N_CHUNKS = 8


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    one = open_process(tmp_path / "store", inventory=False, absent_s=0.01)
    yield one
    one.storage.close()


def _path(process: Process, number: int) -> Path:
    space = open_space(Path(process.storage.settings.root), fields_of(), store=process.storage.settings.name)
    return space.part_folder / chunk_name(key_of(number))


harms = st.one_of(
    st.tuples(st.just("flip"), st.integers(0, 8 * FILE_BYTES - 1)),
    st.tuples(st.just("cut"), st.integers(0, FILE_BYTES - 1)),
    st.tuples(st.just("hole"), st.integers(0, FILE_BYTES - 512)),
    st.tuples(st.just("other"), st.integers(1, N_CHUNKS - 1)),
    st.tuples(st.just("longer"), st.integers(1, 9000)),
)


def _harm(path: Path, process: Process, kind: str, at: int) -> bool:
    """Whether its bytes are others now."""
    before = path.read_bytes()
    content = bytearray(before)
    if kind == "flip":
        content[at // 8] ^= 1 << at % 8
    elif kind == "cut":
        del content[at:]
    elif kind == "hole":  # as a page that never reached the disk
        content[at : at + 512] = bytes(512)
    elif kind == "other":
        content[:] = _path(process, at).read_bytes()
    else:
        content += bytes(at)
    path.write_bytes(content)
    return bytes(content) != before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(harms)
def test_no_harm_of_any_kind_yields_a_wrong_byte(process: Process, harm: tuple[str, int]) -> None:
    process.store(*range(N_CHUNKS))
    path = _path(process, 0)
    before = process.storage.statistics().counters["corrupt"]
    is_harmed = _harm(path, process, *harm)
    done = process.load(0, 1)
    assert process.holds(1)
    if not is_harmed:
        assert process.holds(0)
        return
    assert done.failed == [key_of(0)] and done.ok == [key_of(1)]
    assert process.storage.statistics().counters["corrupt"] == before + 1
    assert not path.exists()  # and is written anew
    process.until(lambda: process.store(0).ok == [key_of(0)])
    assert process.load(0).ok == [key_of(0)] and process.holds(0)


@pytest.mark.slow
@pytest.mark.parametrize("last_use_s", [0, 4_000_000_000])
def test_clocks_that_are_decades_off_change_no_byte_and_end_no_process(
    tmp_path: Path, last_use_s: int
) -> None:
    first = open_process(tmp_path / "store")
    first.store(*range(N_CHUNKS))
    for number in range(N_CHUNKS):
        os.utime(_path(first, number), (last_use_s, last_use_s))
    first.storage.close()
    second = open_process(
        tmp_path / "store", capacity_bytes=(N_CHUNKS + 4) * FILE_BYTES, lease_s=11.0, touch_s=1.0
    )
    try:
        assert not second.load(*range(N_CHUNKS)).failed
        assert second.holds(*range(N_CHUNKS))
        # The capacity counts what is there before it lets anything be written, and evicts where it must.
        wait_for(lambda: second.store(N_CHUNKS).ok == [key_of(N_CHUNKS)])
        assert second.load(N_CHUNKS).ok == [key_of(N_CHUNKS)] and second.holds(N_CHUNKS)
    finally:
        second.storage.close()


def test_files_that_vanish_are_misses(process: Process) -> None:
    process.store(*range(N_CHUNKS))
    _path(process, 3).unlink()
    done = process.load(*range(N_CHUNKS))
    assert done.failed == [key_of(3)] and len(done.ok) == N_CHUNKS - 1
    assert process.store(3).ok == [key_of(3)]


def test_a_part_folder_that_vanishes_is_made_again(process: Process, tmp_path: Path) -> None:
    process.store(1)
    folder = _path(process, 1).parent
    _path(process, 1).unlink()
    folder.rmdir()
    assert process.load(1).failed == [key_of(1)]
    assert process.store(1).ok == [key_of(1)]
