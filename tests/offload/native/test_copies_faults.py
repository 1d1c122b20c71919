"""A copy that fails fails its job alone; a device that is lost fails all, and nothing waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from kvatlas.index.errors import InputError, StoreError
from kvatlas.offload._native import Copier
from tests.offload.native.copies_rig import CopyRig, Job
from tests.offload.native.fake_gpu import FakeGpu

pytestmark = pytest.mark.native

LONG = 1 << 30
"""Seconds that nobody waits."""


class Gpu:
    """A copier on a fake GPU."""

    def __init__(self, fake: FakeGpu, rig: CopyRig, **options: object) -> None:
        self.fake, self.rig = fake, rig
        for tensor in rig.tensors:
            fake.own(tensor.data)
        self.copier: Copier = rig.copier(device="cuda:0", driver=fake.path, **options)

    def store(self, job: int, block: int = 1, row: int = 0, after_stream: int = 0) -> None:
        self.copier.submit_store(job, *Job([[block]], [0], [[row]]).arrays(), after_stream)

    def load(self, job: int, block: int = 1, row: int = 0, after_stream: int = 0) -> None:
        self.copier.submit_load(job, *Job([[block]], [0], [[row]]).arrays(), after_stream)

    def ends(self, *jobs: int) -> dict[int, bool]:
        """Which of them succeeded, once none runs."""
        self.copier.wait(jobs)
        return {job: is_ok for job, is_ok, _, _ in self.copier.finished()}


@pytest.fixture
def open_gpu(fake_gpu: Callable[..., FakeGpu]) -> Callable[..., Gpu]:
    def make(version: int = 13000, **options: object) -> Gpu:
        return Gpu(fake_gpu(version), CopyRig(blocks_per_chunk=1), **options)

    return make


@pytest.mark.parametrize("version", [13000, 12080, 12000])
def test_a_refused_copy_fails_its_job_and_no_other(open_gpu: Callable[..., Gpu], version: int) -> None:
    gpu = open_gpu(version)
    gpu.fake.set("delay_us_max", 200)
    call = "cuMemcpyBatchAsync" if version >= 12080 else "cuMemcpyDtoHAsync_v2"
    gpu.fake.fail(call, after=2, result=2)
    expected = gpu.rig.after_store(Job([[3]], [0], [[3]]))
    for job in range(4):
        gpu.store(job, block=job, row=job)
    ends = gpu.ends(*range(4))
    failed = [job for job, is_ok in ends.items() if not is_ok]
    assert failed == ([2] if version >= 12080 else [1])  # of single copies the third one is the second job's
    assert np.array_equal(gpu.rig.rows[3], expected[3])
    seen = gpu.copier.statistics()
    assert (seen.failed_jobs, seen.device_errors, seen.is_lost) == (1, 1, False)
    assert seen.first_error.startswith("cuda:0: cuMem") and "CUDA_ERROR_OUT_OF_MEMORY (2)" in seen.first_error
    assert seen.stored_bytes == 3 * 8192


def test_a_job_that_was_refused_half_way_ends_only_when_its_first_half_has_ended(
    open_gpu: Callable[..., Gpu],
) -> None:
    gpu = open_gpu(12000)
    gpu.fake.fail("cuMemcpyDtoHAsync_v2", after=1)
    gpu.fake.set("is_hung", 1)
    gpu.store(1)
    assert gpu.copier.finished() == []  # its first copy is still on its way to the row
    gpu.fake.set("is_hung", 0)
    assert gpu.ends(1) == {1: False}
    gpu.store(2)
    assert gpu.ends(2) == {2: True}


@pytest.mark.parametrize("call", ["cuEventRecord", "cuStreamWaitEvent", "cuCtxPushCurrent_v2"])
def test_a_job_that_cannot_be_ordered_fails_before_anything_is_copied(
    open_gpu: Callable[..., Gpu], call: str
) -> None:
    gpu = open_gpu()
    before = gpu.rig.rows.copy()
    gpu.fake.fail(call)
    gpu.store(1)
    assert gpu.ends(1) == {1: False}
    assert np.array_equal(gpu.rig.rows, before) and not gpu.copier.statistics().is_lost
    gpu.store(2)
    assert gpu.ends(2) == {2: True}


def test_an_end_that_cannot_be_recorded_loses_the_device(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    gpu.fake.fail("cuEventRecord", after=2)  # of three for a job
    gpu.store(1)
    assert gpu.ends(1) == {1: False} and gpu.copier.statistics().is_lost


def test_a_device_that_dies_fails_all_jobs_and_later_ones(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    gpu.fake.set("delay_us_max", 300)
    gpu.fake.set("lost_after_copies", 5)
    for job in range(6):
        gpu.load(job, block=job, row=job)
    ends = gpu.ends(*range(6))
    assert ends == {0: True, 1: True} | dict.fromkeys(range(2, 6), False) or ends == dict.fromkeys(
        range(6), False
    )
    gpu.store(7)
    assert gpu.ends(7) == {7: False}
    seen = gpu.copier.statistics()
    assert seen.is_lost and "CUDA_ERROR_ILLEGAL_ADDRESS (700)" in seen.first_error
    assert not gpu.copier.close()


def test_a_device_that_hangs_is_given_up_after_the_time_limit(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu(time_limit_s=0.05)
    gpu.fake.set("is_hung", 1)
    gpu.store(1)
    gpu.load(2, block=2, row=2)
    assert gpu.ends(1, 2) == {1: False, 2: False}
    assert "did not end within 0.05" in gpu.copier.statistics().first_error
    before = dict(gpu.fake.alive())
    assert not gpu.copier.close()  # the library ends the process if anything waits for the device
    memory, fake = gpu.rig.memory, gpu.fake
    del gpu.copier, gpu.rig.rows
    assert fake.alive() == before
    with pytest.raises(BufferError):
        memory.close()  # copies may still arrive there
    fake.set("is_hung", 0)


def test_closing_while_jobs_run_gives_the_device_up_in_time(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    gpu.fake.set("is_hung", 1)
    gpu.store(1)
    assert not gpu.copier.close(0.01)
    assert gpu.ends(1) == {1: False}
    assert "closed while 1 jobs ran" in gpu.copier.statistics().first_error
    gpu.fake.set("is_hung", 0)


def test_waiting_ends_when_another_thread_closes_the_copier(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu(time_limit_s=float(LONG))
    gpu.fake.set("is_hung", 1)
    gpu.store(1)
    waiter = threading.Thread(target=gpu.copier.wait, args=([1],))
    waiter.start()
    assert not gpu.copier.close(0.01)
    waiter.join(60)
    assert not waiter.is_alive()
    gpu.fake.set("is_hung", 0)


def test_more_jobs_than_the_bound_fail_at_once_and_unread_ones_are_bounded(
    open_gpu: Callable[..., Gpu],
) -> None:
    gpu = open_gpu(jobs_max=2)
    gpu.fake.set("is_hung", 1)
    for job in range(10):
        gpu.store(job)
    assert gpu.copier.statistics().refused_jobs == 8
    with pytest.raises(InputError, match=r"job 10: expected finished\(\) to be read, got 8 unread jobs"):
        gpu.store(10)
    assert gpu.copier.finished() == [(job, False, 0, 0.0) for job in range(2, 10)]
    gpu.fake.set("is_hung", 0)
    assert gpu.ends(0, 1) == {0: True, 1: True}


def test_a_store_waits_for_what_the_engine_s_stream_still_writes(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    for stream in (gpu.fake.stream(), 0):  # 0 is the default stream
        for value in (1, 2, 3):
            gpu.rig.tensors[0].data[value] = 0
            gpu.fake.write(stream, gpu.rig.tensors[0].data[value], value, after_us=2000)
            gpu.store(value, block=value, row=value, after_stream=stream)
        assert gpu.ends(1, 2, 3) == {1: True, 2: True, 3: True}
        assert [int(gpu.rig.rows[row, 0]) for row in (1, 2, 3)] == [1, 2, 3]


def test_a_load_comes_after_what_the_engine_s_stream_still_zeroes(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    stream = gpu.fake.stream()
    gpu.fake.write(stream, gpu.rig.tensors[0].data, 0, after_us=2000)
    gpu.load(1, block=5, row=3, after_stream=stream)
    assert gpu.ends(1) == {1: True}
    assert np.array_equal(gpu.rig.tensors[0].data[5], gpu.rig.rows[3, :4096])
    assert not gpu.rig.tensors[0].data[6].any()


def test_memory_that_cannot_be_pinned_is_copied_all_the_same(open_gpu: Callable[..., Gpu]) -> None:
    fake = open_gpu().fake
    fake.fail("cuMemHostRegister_v2", result=2)
    gpu = Gpu(fake, CopyRig(blocks_per_chunk=1), gather_loads_below_bytes=LONG, gather_least=1)
    assert not gpu.copier.statistics().is_pinned
    expected = gpu.rig.after_load(Job([[1]], [0], [[0]]))
    gpu.load(1)
    assert gpu.ends(1) == {1: True} and np.array_equal(gpu.rig.tensors[1].data, expected[1])
    assert fake.count("copies_of_unpinned") == 2  # and no kernel, which could not reach it
    assert gpu.copier.statistics().gathered_copies == 0


def test_memory_that_somebody_else_has_pinned_stays_pinned(open_gpu: Callable[..., Gpu]) -> None:
    first = open_gpu()
    second = first.rig.copier(device="cuda:0", driver=first.fake.path)
    assert second.statistics().is_pinned and second.close()
    assert first.fake.alive()["registered"] == 1
    assert first.copier.close() and first.fake.alive()["registered"] == 0


def test_a_driver_without_the_kernel_or_the_batches_for_this_device_copies_otherwise(
    open_gpu: Callable[..., Gpu],
) -> None:
    fake = open_gpu().fake
    fake.fail("cuModuleLoadData", result=218)
    fake.fail("cuMemcpyBatchAsync", result=801)
    gpu = Gpu(fake, CopyRig(blocks_per_chunk=1), gather_least=1)
    assert "no gathers: cuModuleLoadData" in gpu.copier.device
    gpu.load(1)
    assert gpu.ends(1) == {1: True}
    assert gpu.copier.statistics().single_copies == 2 and "single copies" in gpu.copier.device


def test_small_copies_go_another_way_while_all_descriptor_buffers_are_in_use(
    open_gpu: Callable[..., Gpu],
) -> None:
    gpu = open_gpu(gather_loads_below_bytes=LONG, gather_least=1)
    gpu.fake.set("is_hung", 1)
    for job in range(10):
        gpu.load(job, block=job, row=job)
    seen = gpu.copier.statistics()
    assert (seen.gathered_copies, seen.gathers_refused, seen.batched_copies) == (16, 4, 4)
    gpu.fake.set("is_hung", 0)
    expected = gpu.rig.after_load(Job([list(range(10))], [0], [list(range(10))]))
    assert all(gpu.ends(*range(10)).values())
    assert np.array_equal(gpu.rig.tensors[0].data, expected[0])
    gpu.load(10)  # and the buffers are free again
    assert gpu.ends(10) == {10: True} and gpu.copier.statistics().gathered_copies == 18


def test_a_kernel_that_touches_foreign_memory_loses_the_device(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu(gather_loads_below_bytes=LONG, gather_least=1)
    gpu.fake.set("lost_after_copies", 0)
    gpu.load(1)
    assert gpu.ends(1) == {1: False} and gpu.copier.statistics().is_lost


@pytest.mark.parametrize("call", ["cuDevicePrimaryCtxRetain", "cuStreamCreateWithPriority", "cuEventCreate"])
def test_a_device_that_cannot_be_opened_is_an_error_and_leaves_nothing(
    open_gpu: Callable[..., Gpu], call: str
) -> None:
    gpu = open_gpu()
    assert gpu.copier.close()
    del gpu.copier
    gpu.fake.fail(call, result=2)
    with pytest.raises(
        StoreError, match=rf"cuda:0: expected a usable device, got {call}: CUDA_ERROR_OUT_OF_MEMORY \(2\)"
    ):
        gpu.rig.copier(device="cuda:0", driver=gpu.fake.path)
    assert not any(gpu.fake.alive().values())


def test_a_device_that_does_not_exist_is_an_error(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    with pytest.raises(
        StoreError, match=r"cuda:7: expected a usable device, got cuDeviceGet: CUDA_ERROR_INVALID_DEVICE"
    ):
        gpu.rig.copier(device="cuda:7", driver=gpu.fake.path)


def test_a_descriptor_buffer_that_cannot_be_had_leaves_the_other_ways(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    assert gpu.copier.close()
    del gpu.copier
    gpu.fake.fail("cuMemAlloc_v2", after=3)
    again = Gpu(gpu.fake, gpu.rig)
    assert "no gathers: cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY" in again.copier.device
    assert gpu.fake.alive()["owned"] == 0
    assert again.copier.close()


def test_calls_are_made_in_the_context_and_leave_the_thread_s_own_one(open_gpu: Callable[..., Gpu]) -> None:
    gpu = open_gpu()
    gpu.store(1)
    assert gpu.ends(1) == {1: True}
    assert gpu.fake.count("wrong_context") == 0
    assert gpu.fake.count("cuCtxPushCurrent_v2") > 0
    assert gpu.fake.has_no_context()  # nothing is left current on this thread
