"""What needs no server: the ends of jobs, the ages of a listing, and every bit of a chunk."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import HEAD_BYTES
from kvatlas.offload.backends.backend import Outcome
from kvatlas.offload.backends.objects_capacity import Ages
from kvatlas.offload.backends.objects_chunk import ChunkForm, key_of_path
from kvatlas.offload.backends.objects_client import Listed
from kvatlas.offload.backends.objects_jobs import JobKind, Jobs

KEY = bytes(range(36))
FORM = ChunkForm(fingerprint=b"f" * 16, row_bytes=5000, blocks=2, writer=b"w" * 16)


def _content() -> bytearray:
    row = np.random.default_rng(1).integers(0, 256, FORM.row_bytes, np.uint8)
    content = np.zeros(FORM.object_bytes, np.uint8)
    FORM.encode(KEY, row, content)
    return bytearray(content.tobytes())


CONTENT = _content()


@given(st.integers(0, 8 * FORM.object_bytes - 1))
def test_no_flipped_bit_verifies(bit: int) -> None:
    content = bytearray(CONTENT)
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreError):
        FORM.payload(KEY, memoryview(content), len(content))


@given(st.integers(0, FORM.object_bytes - 1))
def test_no_part_of_a_chunk_verifies(n_bytes: int) -> None:
    with pytest.raises(StoreError):
        FORM.payload(KEY, memoryview(CONTENT)[:n_bytes], n_bytes)
    with pytest.raises(StoreError):  # a server that says more than it sends
        FORM.payload(KEY, memoryview(CONTENT)[:n_bytes], len(CONTENT))


def test_a_whole_chunk_verifies() -> None:
    payload = FORM.payload(KEY, memoryview(CONTENT), len(CONTENT))
    assert payload == CONTENT[HEAD_BYTES : HEAD_BYTES + FORM.row_bytes]


def test_paths_that_are_no_chunks_have_no_key() -> None:
    assert key_of_path("store.json") is None
    assert key_of_path("space/config.json") is None
    assert key_of_path("space/all/000/nothing.kv") is None


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_job_ends_once_when_all_its_keys_have() -> None:
    jobs = Jobs(10.0)
    job = jobs.begin(1, JobKind.LOAD, [b"a", b"b"])
    jobs.end_key(job, 1, Outcome.OK, 5)
    assert jobs.finished() == []
    jobs.end_key(job, 0, Outcome.ABSENT)
    jobs.end_key(job, 0, Outcome.OK, 5)  # too late
    (ended,) = jobs.finished()
    assert (ended.job, ended.outcomes, ended.n_bytes) == (1, bytes([Outcome.ABSENT, Outcome.OK]), 5)
    assert jobs.finished() == []
    assert jobs.outcomes[Outcome.OK] == jobs.outcomes[Outcome.ABSENT] == 1


def test_a_job_past_its_deadline_ends_when_its_last_claim_does_and_has_none_again() -> None:
    clock = _Clock()
    jobs = Jobs(10.0, clock)
    job = jobs.begin(1, JobKind.LOAD, [b"a", b"b"])
    jobs.end_key(job, 0, Outcome.OK, 5)
    assert jobs.claim(job)
    clock.now_s += 10.0
    assert jobs.finished() == []
    assert not jobs.claim(job)
    jobs.release(job)
    (ended,) = jobs.finished()
    assert ended.outcomes == bytes([Outcome.OK, Outcome.TIMED_OUT])
    assert ended.error == "no end after 10.0 s"
    assert not jobs.claim(job)


def test_draining_waits_for_a_copy_and_for_nothing_else() -> None:
    jobs = Jobs(10.0)
    job = jobs.begin(1, JobKind.STORE, [b"a"])
    assert jobs.claim(job)
    drained: list[bool] = []
    thread = threading.Thread(target=lambda: drained.append(jobs.drain(0.0)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    jobs.release(job)
    thread.join(60.0)
    assert drained == [False]
    assert jobs.finished()[0].outcomes == bytes([Outcome.CANCELLED])


def test_a_job_of_no_keys_ends_at_once() -> None:
    jobs = Jobs(10.0)
    jobs.begin(1, JobKind.PROBE, [])
    assert jobs.finished()[0].outcomes == b""


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 1000)), min_size=1, max_size=60), st.data())
def test_ages_say_a_time_before_which_enough_was_written(
    objects: list[tuple[int, int]], data: st.DataObject
) -> None:
    ages = Ages(spans_max=8)
    for modified_s, n_bytes in objects:
        ages.add(Listed("", n_bytes, float(modified_s)))
    asked = data.draw(st.integers(1, ages.n_bytes))
    cutoff_s = ages.cutoff_s(asked)
    assert sum(n_bytes for modified_s, n_bytes in objects if modified_s < cutoff_s) >= asked
    assert ages.n_spans <= 8
    assert ages.newest_s == max(modified_s for modified_s, _ in objects)
    assert ages.cutoff_s(ages.n_bytes + 1) == float("inf")
