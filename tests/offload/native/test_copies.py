"""Copier moves exactly the bytes it was asked to move, on the host and by each way of CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.offload._native import Copier
from tests.offload.native.copies_rig import CopyRig, Job
from tests.offload.native.fake_gpu import FakeGpu
from tests.profiles import examples

pytestmark = pytest.mark.native

ALWAYS = 1 << 40
"""Bytes below which everything lies."""


class Way(NamedTuple):
    """A device, and how it copies."""

    version: int | None
    options: dict[str, Any]
    shown: str
    """A part of Copier.device."""


_GATHERS = {"gather_loads_below_bytes": ALWAYS, "gather_stores_below_bytes": ALWAYS, "gather_least": 1}
_PLAIN = {"gather_loads_below_bytes": 0, "gather_stores_below_bytes": 0}
WAYS = {
    "host": Way(None, {"host_threads": 1}, "host, 1 thread"),
    "host threads": Way(None, {"host_threads": 3}, "host, 3 threads"),
    "batches of 13.0": Way(13000, _PLAIN, "driver 13.0, batches"),
    "batches of 12.8": Way(12080, _PLAIN, "driver 12.8, batches"),
    "single copies": Way(12040, _PLAIN, "driver 12.4, single copies"),
    "gathers": Way(13000, _GATHERS, "batches, gathers"),
    "some gathers": Way(
        12040, {"gather_loads_below_bytes": 64, "gather_stores_below_bytes": 48, "gather_least": 2}, "gathers"
    ),
}


@pytest.fixture(params=WAYS, ids=lambda name: name.replace(" ", "-"))
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def open_copier(way: Way, fake_gpu: Callable[..., FakeGpu]) -> Callable[[CopyRig], Copier]:
    """Opens copiers of one way, on a GPU whose work comes late."""
    gpu = None if way.version is None else fake_gpu(way.version)
    rigs: list[CopyRig] = []

    def open_one(rig: CopyRig) -> Copier:
        rigs.append(rig)  # tensors must outlive their copier, which knows only their addresses
        if gpu is None:
            return rig.copier(**way.options)
        gpu.reset()
        gpu.set("delay_us_max", 50)
        for tensor in rig.tensors:
            gpu.own(tensor.data)
        return rig.copier(device="cuda:0", driver=gpu.path, **way.options)

    return open_one


def stored(copier: Copier, job: Job, number: int = 1) -> tuple[int, bool, int]:
    copier.submit_store(number, *job.arrays())
    copier.wait([number])
    [(done, is_ok, n_bytes, seconds)] = copier.finished()
    assert seconds >= 0
    return done, is_ok, n_bytes


def loaded(copier: Copier, job: Job, number: int = 1) -> tuple[int, bool, int]:
    copier.submit_load(number, *job.arrays())
    copier.wait([number])
    [(done, is_ok, n_bytes, seconds)] = copier.finished()
    assert seconds >= 0
    return done, is_ok, n_bytes


@st.composite
def rigs_and_jobs(draw: st.DrawFn) -> tuple[CopyRig, Job, Job]:
    """A layout with odd pages, gaps, shared tensors and hybrid groups, and two jobs over different rows."""
    n_tensors = draw(st.integers(1, 3))
    pages = draw(
        st.lists(st.sampled_from([16, 33, 48, 64, 100, 4096, 40000]), min_size=n_tensors, max_size=n_tensors)
    )
    gaps = draw(st.lists(st.sampled_from([0, 0, 16, 7]), min_size=n_tensors, max_size=n_tensors))
    part = st.integers(0, n_tensors - 1).flatmap(
        lambda t: st.tuples(st.just(t), st.one_of(st.just(pages[t]), st.integers(1, pages[t])))
    )
    groups = draw(st.lists(st.lists(part, min_size=1, max_size=3), min_size=1, max_size=3))
    rig = CopyRig(
        page_bytes=pages,
        gap_bytes=gaps,
        groups=groups,
        blocks_per_chunk=draw(st.integers(1, 4)),
        n_blocks=40,
        n_rows=30,
        row_lead_bytes=draw(st.sampled_from([0, 16, 5])),
        row_tail_bytes=draw(st.sampled_from([0, 16, 3])),
        seed=draw(st.integers(0, 1000)),
    )
    return rig, draw(jobs(rig)), draw(jobs(rig))


@st.composite
def jobs(draw: st.DrawFn, rig: CopyRig) -> Job:
    blocks = draw(st.one_of(st.permutations(range(40)), st.just(list(range(40)))))
    rows = draw(st.permutations(range(30)))
    job = Job([], [], [])
    for _ in rig.groups:
        size = draw(st.integers(0, 6))
        index = draw(st.integers(0, 9))
        n_chunks = -(-(index % rig.blocks_per_chunk + size) // rig.blocks_per_chunk) if size else 0
        job.block_ids.append([blocks.pop() for _ in range(size)][::-1])
        job.block_indices.append(index)
        job.rows.append([rows.pop() for _ in range(n_chunks)])
    return job


@pytest.mark.slow
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=examples(60),
)
@given(rigs_and_jobs())
def test_every_way_moves_the_bytes_that_a_plain_loop_moves_and_no_others(
    open_copier: Callable[[CopyRig], Copier], case: tuple[CopyRig, Job, Job]
) -> None:
    rig, first, second = case
    copier = open_copier(rig)
    expected_rows, tensors_before = rig.after_store(first), [t.data.copy() for t in rig.tensors]
    assert stored(copier, first, 7) == (7, True, rig.n_bytes(first))
    assert np.array_equal(rig.rows, expected_rows)
    assert all(np.array_equal(t.data, was) for t, was in zip(rig.tensors, tensors_before, strict=True))

    expected_tensors = rig.after_load(second)
    assert loaded(copier, second, 8) == (8, True, rig.n_bytes(second))
    assert all(np.array_equal(t.data, now) for t, now in zip(rig.tensors, expected_tensors, strict=True))
    assert np.array_equal(rig.rows, expected_rows)
    assert copier.close()


def test_each_way_is_the_one_that_was_asked_for(way: Way, open_copier: Callable[[CopyRig], Copier]) -> None:
    rig = CopyRig(page_bytes=(48, 64), groups=[[(0, 40), (1, 64)]], gap_bytes=(0, 0))
    copier = open_copier(rig)
    job = Job([list(range(0, 32, 2))], [0], [[1, 2, 3, 4]])
    stored(copier, job)
    loaded(copier, job)
    seen = copier.statistics()
    assert way.shown in copier.device
    counted = (seen.batched_copies, seen.single_copies, seen.gathered_copies)
    assert (
        counted
        == {
            "host": (0, 0, 0),
            "host threads": (0, 0, 0),
            "batches of 13.0": (64, 0, 0),
            "batches of 12.8": (64, 0, 0),
            "single copies": (0, 64, 0),
            "gathers": (0, 0, 64),
            "some gathers": (0, 32, 32),  # 40 of both, and 64 of neither
        }[next(name for name, one in WAYS.items() if one is way)]
    )
    assert (seen.stores, seen.loads, seen.failed_jobs, seen.copies) == (1, 1, 0, 64)
    assert (seen.stored_bytes, seen.loaded_bytes) == (16 * 104, 16 * 104)


def test_neighbouring_blocks_are_copied_together() -> None:
    rig = CopyRig()
    copier = rig.copier()
    stored(copier, Job([[8, 9, 10, 11, 3, 4]], [0], [[0, 5]]))
    assert copier.statistics().copies == 4  # two tensors, two runs each


def test_large_blocks_are_copied_past_the_caches_and_in_pieces() -> None:
    page = (3 << 20) + 4096 + 7
    rig = CopyRig(
        page_bytes=(page,),
        gap_bytes=(1,),
        groups=[[(0, page)]],
        blocks_per_chunk=1,
        n_blocks=4,
        n_rows=4,
        row_lead_bytes=9,
        row_tail_bytes=3,
    )
    copier = rig.copier(host_threads=3)
    job = Job([[2, 0]], [0], [[3, 1]])
    expected = rig.after_store(job)
    assert stored(copier, job) == (1, True, 2 * page)
    assert np.array_equal(rig.rows, expected)
    assert copier.statistics().copies == 2


def test_jobs_of_a_direction_take_effect_in_their_order(open_copier: Callable[[CopyRig], Copier]) -> None:
    rig = CopyRig(n_blocks=40, n_rows=40, blocks_per_chunk=1)
    copier = open_copier(rig)
    expected = rig.tensors[0].data.copy(), rig.tensors[1].data.copy()
    for row in range(40):  # all into block 3: the last one stays
        copier.submit_load(row, *Job([[3]], [0], [[row]]).arrays())
    expected[0][3], expected[1][3] = rig.rows[39, :4096], rig.rows[39, 4096:]
    copier.wait(range(40))
    assert [(job, is_ok) for job, is_ok, _, _ in copier.finished()] == [(row, True) for row in range(40)]
    assert all(np.array_equal(t.data, now) for t, now in zip(rig.tensors, expected, strict=True))


def test_waiting_for_jobs_that_are_unknown_or_read_returns_at_once(
    open_copier: Callable[[CopyRig], Copier],
) -> None:
    copier = open_copier(CopyRig())
    copier.wait([])
    copier.wait([1, 2])
    stored(copier, Job([[1]], [0], [[0]]), 5)
    copier.wait([5])
    assert copier.finished() == []


def test_a_job_of_nothing_succeeds(open_copier: Callable[[CopyRig], Copier]) -> None:
    copier = open_copier(CopyRig())
    assert stored(copier, Job([[]], [3], [[]])) == (1, True, 0)


def test_a_number_that_runs_and_a_closed_copier_take_no_job(fake_gpu: Callable[..., FakeGpu]) -> None:
    gpu, rig = fake_gpu(), CopyRig()
    for tensor in rig.tensors:
        gpu.own(tensor.data)
    copier = rig.copier(device="cuda:0", driver=gpu.path)
    gpu.set("is_hung", 1)
    job = Job([[1]], [0], [[0]]).arrays()
    copier.submit_store(1, *job)
    with pytest.raises(InputError, match="job 1: expected a number of its own, got one that runs"):
        copier.submit_store(1, *job)
    gpu.set("is_hung", 0)
    assert copier.close()
    assert [job for job, _, _, _ in copier.finished()] == [1]
    with pytest.raises(InputError, match="job 2: expected an open copier, got a closed one"):
        copier.submit_store(2, *job)
    assert copier.close()


def test_closing_lets_go_of_the_memory_and_of_all_that_was_made(fake_gpu: Callable[..., FakeGpu]) -> None:
    gpu, rig = fake_gpu(), CopyRig()
    for tensor in rig.tensors:
        gpu.own(tensor.data)
    copier = rig.copier(device="cuda:0", driver=gpu.path)
    stored(copier, Job([[1]], [0], [[0]]))
    alive = gpu.alive()
    assert alive["registered"] == 1 and alive["contexts"] == 1 and alive["streams"] == 2
    assert copier.pci_address == "0000:3b:00.0" and copier.statistics().is_pinned
    assert copier.close()
    del rig.rows
    rig.memory.close()  # raises while anybody holds it
    del copier
    assert gpu.alive() == {"streams": 0, "events": 0, "registered": 0, "owned": 0, "contexts": 0}
