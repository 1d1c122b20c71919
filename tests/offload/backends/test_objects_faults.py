"""A server that is down, slow, full, read-only or broken: each job ends, no row is spoiled, it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kvatlas.offload.backends.backend import Outcome
from tests.offload.backends.object_server import Answer, ObjectServer, Request
from tests.offload.backends.objects_at_hand import Rig
from tests.offload.storing.files_at_hand import content_of, wait_for

pytest.importorskip("obstore")
pytest.importorskip("moto")


@pytest.fixture
def quick(server: ObjectServer) -> Iterator[Rig]:
    """Whose time limit passes soon."""
    one = Rig(server, time_limit_s=2.0, write_budget_s=0.1, lease_s=60.0)
    yield one
    one.close()


def _is_chunk(request: Request) -> bool:
    return ".kv" in request.path


@pytest.mark.slow
def test_a_server_error_or_two_are_tried_again(rig: Rig) -> None:
    left = [Answer(500), Answer(503, b"SlowDown")]
    rig.proxy.judge = lambda request: left.pop() if left and _is_chunk(request) else None
    assert rig.store(1) == [Outcome.OK]
    left.extend([Answer(502), Answer(500)])
    assert rig.load(1) == [Outcome.OK]
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "of_store", "of_load"),
    [
        (Answer(500, b"broken"), Outcome.FAILED, Outcome.FAILED),
        (Answer(507, b"XMinioStorageFull"), Outcome.NO_SPACE, Outcome.NO_SPACE),
        (Answer(403, b"AccessDenied"), Outcome.READ_ONLY, Outcome.FAILED),
        (Answer(404, b"NoSuchBucket"), Outcome.FAILED, Outcome.FAILED),
        (Answer(200, b"<html>a proxy's page</html>"), None, Outcome.CORRUPT),
    ],
)
def test_what_the_server_answers_is_told_apart(
    rig: Rig, answer: Answer, of_store: Outcome | None, of_load: Outcome
) -> None:
    rig.store(1)
    rig.proxy.judge = lambda request: answer if _is_chunk(request) else None
    if of_store is not None:
        assert rig.store(2) == [of_store]
    assert rig.load(1) == [of_load]
    rig.proxy.judge = lambda request: None
    assert rig.load(3) == [Outcome.ABSENT]


@pytest.mark.slow
def test_credentials_that_may_only_read_stop_stores_and_not_loads(rig: Rig) -> None:
    rig.store(1)
    rig.proxy.judge = lambda request: Answer(403, b"AccessDenied") if request.method == "PUT" else None
    assert rig.store(2) == [Outcome.READ_ONLY]
    assert rig.load(1) == [Outcome.OK]
    ended = rig.end(rig.submit_store(3))
    assert "AccessDenied" in ended.error and "\n" not in ended.error


@pytest.mark.slow
def test_a_server_without_conditional_writes_has_them_written(rig: Rig) -> None:
    def judge(request: Request) -> Answer | None:
        return Answer(501, b"NotImplemented") if request.headers.get("if-none-match") else None

    rig.proxy.judge = judge
    assert rig.store(1, 2) == [Outcome.OK] * 2
    assert rig.store(1) == [Outcome.OK]
    assert rig.load(1, 2) == [Outcome.OK] * 2


@pytest.mark.slow
def test_a_server_that_is_gone_fails_jobs_and_serves_them_when_it_is_back(rig: Rig) -> None:
    rig.store(1)
    away = threading.Event()

    def judge(request: Request) -> Answer | None:
        if away.is_set():
            raise ConnectionAbortedError  # the connection is closed without an answer
        return None

    rig.proxy.judge = judge
    away.set()
    assert rig.load(1) == [Outcome.FAILED]
    assert rig.store(2) == [Outcome.FAILED]
    away.clear()
    assert rig.store(2) == [Outcome.OK]
    assert rig.load(1, 2) == [Outcome.OK] * 2


class _Held:
    """Requests for chunks wait until they are let go."""

    def __init__(self, rig: Rig) -> None:
        self.go = threading.Event()
        self.n_waiting = 0
        rig.proxy.judge = self._judge

    def _judge(self, request: Request) -> Answer | None:
        if _is_chunk(request):
            self.n_waiting += 1
            self.go.wait(60)
        return None


@pytest.mark.slow
def test_a_load_that_hangs_ends_at_its_time_limit_and_never_writes_its_row(quick: Rig) -> None:
    quick.store(1)
    held = _Held(quick)
    assert quick.load(1) == [Outcome.TIMED_OUT]
    quick.fill(2)  # somebody else's by now
    quick.row(1)[:] = content_of(2).data
    held.go.set()
    quick.proxy.judge = lambda request: None
    wait_for(lambda: quick.load(3) == [Outcome.ABSENT])  # the threads are free again
    assert quick.row(1) == content_of(2).tobytes()


@pytest.mark.slow
def test_a_store_that_hangs_writes_what_it_was_given_or_nothing(quick: Rig) -> None:
    held = _Held(quick)
    job = quick.submit_store(1)
    wait_for(lambda: held.n_waiting > 0)
    assert set(quick.end(job).outcomes) == {Outcome.TIMED_OUT}
    quick.row(1)[:] = content_of(2).data  # the row is another's now
    held.go.set()
    quick.proxy.judge = lambda request: None
    wait_for(lambda: quick.probe(1) == [Outcome.OK])  # the late request has done it
    wait_for(lambda: quick.load(1) == [Outcome.OK])


@pytest.mark.slow
def test_jobs_behind_a_hanging_one_time_out_unsent(server: ObjectServer) -> None:
    rig = Rig(server, readers=1, time_limit_s=0.5, write_budget_s=0.1)
    try:
        held = _Held(rig)
        jobs = [rig.submit_load(number) for number in range(6)]
        assert [set(rig.end(job).outcomes) for job in jobs] == [{Outcome.TIMED_OUT}] * 6
        assert held.n_waiting < 6
        held.go.set()
    finally:
        rig.close()


@pytest.mark.slow
def test_draining_gives_up_what_hangs_and_leaves_no_row_in_use(rig: Rig) -> None:
    held = _Held(rig)
    job = rig.submit_load(1)
    began_s = time.monotonic()
    assert not rig.backend.drain(0.1)
    assert time.monotonic() - began_s < rig.settings.time_limit_s
    assert set(rig.end(job).outcomes) == {Outcome.CANCELLED}
    held.go.set()
    assert rig.backend.drain(5.0)


@pytest.mark.slow
def test_closing_while_requests_hang_releases_the_memory(rig: Rig) -> None:
    held = _Held(rig)
    rig.submit_load(1)
    rig.submit_store(2)
    wait_for(lambda: held.n_waiting >= 2)
    began_s = time.monotonic()
    rig.backend.close(0.2)
    assert time.monotonic() - began_s < rig.settings.time_limit_s
    rig.view.release()
    rig.memory.clear()  # raises while anybody holds it
    held.go.set()


@pytest.mark.slow
def test_reads_go_on_while_every_writer_hangs(rig: Rig) -> None:
    rig.store(1)
    go = threading.Event()

    def judge(request: Request) -> Answer | None:
        if request.method == "PUT":
            go.wait(60)
        return None

    rig.proxy.judge = judge
    jobs = [rig.submit_store(number) for number in range(2, 10)]
    assert rig.load(1) == [Outcome.OK]
    assert rig.backend.statistics()["open_jobs"] == len(jobs)
    go.set()
    assert [set(rig.end(job).outcomes) for job in jobs] == [{Outcome.OK}] * len(jobs)


@pytest.mark.slow
def test_bytes_that_flip_on_their_way_are_read_again(rig: Rig) -> None:
    rig.store(1)
    flipped = [Answer(200, _flipped(rig.get(1)))]
    rig.proxy.judge = lambda request: flipped.pop() if flipped and _is_chunk(request) else None
    assert rig.load(1) == [Outcome.OK]
    assert rig.backend.statistics()["read_again"] == 1


@pytest.mark.slow
def test_bytes_that_flip_each_time_are_corrupt(rig: Rig) -> None:
    rig.store(1)
    answer = Answer(200, _flipped(rig.get(1)))
    rig.proxy.judge = lambda request: answer if request.method == "GET" and _is_chunk(request) else None
    assert rig.load(1) == [Outcome.CORRUPT]


@pytest.mark.slow
def test_an_object_that_is_corrupt_and_cannot_be_removed_is_counted(rig: Rig) -> None:
    rig.store(1)
    rig.put(1, _flipped(rig.get(1)))
    rig.proxy.judge = lambda request: None if request.method in ("GET", "PUT") else Answer(403)
    assert rig.load(1) == [Outcome.CORRUPT]
    assert rig.backend.statistics()["corrupt_not_removed"] == 1
    assert rig.load(1) == [Outcome.CORRUPT]


def _flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[5000] ^= 1
    return bytes(changed)
