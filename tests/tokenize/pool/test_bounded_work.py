"""The queue before the threads: what is admitted, in which order it runs, what ends it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from kvatlas.index.errors import ConfigError, OverloadedError
from kvatlas.tokenize.pool.bounded_work import BoundedWork, WorkLimits

WAIT_S = 60.0


class Rig:
    """Work whose pieces wait until they are let go."""

    def __init__(self, **limits: int | float) -> None:
        self.now_s = 0.0
        self.work = BoundedWork(WorkLimits(**{"threads": 1, **limits}), clock_s=lambda: self.now_s)  # type: ignore[arg-type]
        self.gate = threading.Event()
        self.begun: list[str] = []
        self._begun = threading.Condition()

    def piece(self, name: str) -> str:
        with self._begun:
            self.begun.append(name)
            self._begun.notify_all()
        assert self.gate.wait(WAIT_S)
        return name

    def submit(self, name: str, n_bytes: int = 0, *, may_spill: bool = False) -> object:
        return self.work.submit(lambda: self.piece(name), n_bytes, may_spill=may_spill)

    def wait_begun(self, *names: str) -> None:
        with self._begun:
            assert self._begun.wait_for(lambda: set(names) <= set(self.begun), WAIT_S), self.begun


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.gate.set()
    rig.work.close()


def close(rig: Rig) -> None:
    rig.gate.set()
    rig.work.close()


def test_what_a_piece_returns_or_raises_is_its_futures(rig: Rig) -> None:
    rig.gate.set()
    assert rig.work.submit(lambda: rig.piece("a")).result(WAIT_S) == "a"

    def failing() -> None:
        raise KeyError("b")

    with pytest.raises(KeyError):
        rig.work.submit(failing).result(WAIT_S)
    assert rig.work.submit(lambda: 3).result(WAIT_S) == 3
    assert rig.work.statistics().counts == {"done": 2, "failed": 1}
    assert rig.work.is_idle


def test_a_full_queue_refuses_at_once_and_earlier_for_who_can_go_elsewhere() -> None:
    rig = Rig(waiting_max=3, spill_max=1)
    rig.submit("runs")
    rig.wait_begun("runs")
    rig.submit("waits", may_spill=True)
    with pytest.raises(OverloadedError, match="fewer than 1"):
        rig.submit("spilled", may_spill=True)
    rig.submit("waits too")
    rig.submit("waits as well")
    with pytest.raises(OverloadedError, match="fewer than 3"):
        rig.submit("refused")
    now = rig.work.statistics()
    assert (now.busy, now.waiting) == (1, 3)
    assert now.counts == {"spilled": 1, "refused": 1}
    close(rig)


def test_bytes_are_bounded_but_one_piece_is_always_taken() -> None:
    rig = Rig(waiting_bytes_max=100)
    first = rig.work.submit(lambda: rig.piece("huge"), 1000)
    rig.wait_begun("huge")
    with pytest.raises(OverloadedError, match="100 bytes"):
        rig.submit("one more", 1)
    assert rig.work.statistics().bytes == 1000
    rig.gate.set()
    first.result(WAIT_S)
    assert rig.work.statistics().bytes == 0
    assert rig.work.submit(lambda: 1, 60).result(WAIT_S) == 1
    close(rig)


def test_slow_pieces_leave_a_thread_to_quick_ones() -> None:
    rig = Rig(threads=2, slow_bytes=10)
    for name in ("slow 1", "slow 2", "slow 3"):
        rig.submit(name, 100)
    rig.wait_begun("slow 1")
    rig.submit("quick", 1)
    rig.wait_begun("quick")
    assert rig.begun == ["slow 1", "quick"]
    rig.gate.set()
    rig.wait_begun("slow 2", "slow 3")
    close(rig)


def test_pieces_that_are_said_to_be_slow_take_half_of_the_queue_at_most() -> None:
    rig = Rig(threads=2, waiting_max=4)
    futures = [rig.work.submit(lambda: rig.piece("slow"), is_slow=True)]
    rig.wait_begun("slow")
    futures += [rig.work.submit(lambda: rig.piece("slow"), is_slow=True) for _ in range(2)]
    with pytest.raises(OverloadedError, match="2 of them slow"):
        rig.work.submit(lambda: rig.piece("slow"), is_slow=True)
    futures.append(rig.work.submit(lambda: rig.piece("quick")))
    rig.wait_begun("quick")
    rig.gate.set()
    assert [future.result(WAIT_S) for future in futures] == ["slow", "slow", "slow", "quick"]
    close(rig)


def test_one_thread_takes_slow_and_quick_in_the_order_they_came() -> None:
    rig = Rig(threads=1, slow_bytes=10)
    futures = []
    for name, n_bytes in (("a", 100), ("b", 1), ("c", 100), ("d", 1)):
        futures.append(rig.work.submit(lambda name=name: rig.piece(name), n_bytes))  # type: ignore[misc]
        rig.now_s += 1
    rig.gate.set()
    assert [future.result(WAIT_S) for future in futures] == ["a", "b", "c", "d"]
    assert rig.begun == ["a", "b", "c", "d"]
    close(rig)


def test_what_has_waited_too_long_is_not_begun() -> None:
    rig = Rig(wait_s_max=5.0)
    first = rig.work.submit(lambda: rig.piece("first"))
    rig.wait_begun("first")
    late = rig.work.submit(lambda: rig.piece("late"))
    rig.now_s = 6.0
    in_time = rig.work.submit(lambda: rig.piece("in time"))
    rig.gate.set()
    assert first.result(WAIT_S) == "first"
    with pytest.raises(OverloadedError, match="within 5 s"):
        late.result(WAIT_S)
    assert in_time.result(WAIT_S) == "in time"
    assert rig.begun == ["first", "in time"]
    assert rig.work.statistics().counts == {"done": 2, "given_up": 1}
    close(rig)


def test_what_nobody_waits_for_any_more_is_not_begun(rig: Rig) -> None:
    rig.submit("first")
    rig.wait_begun("first")
    cancelled = rig.work.submit(lambda: rig.piece("cancelled"))
    assert cancelled.cancel()
    last = rig.work.submit(lambda: rig.piece("last"))
    rig.gate.set()
    assert last.result(WAIT_S) == "last"
    assert "cancelled" not in rig.begun


def test_closing_fails_what_waits_and_lets_end_what_runs(rig: Rig) -> None:
    running = rig.work.submit(lambda: rig.piece("runs"))
    rig.wait_begun("runs")
    waiting = rig.work.submit(lambda: rig.piece("waits"), 7)
    rig.work.close()
    rig.work.close()
    with pytest.raises(OverloadedError, match="closed"):
        waiting.result(WAIT_S)
    with pytest.raises(OverloadedError, match="closed"):
        rig.submit("too late")
    rig.gate.set()
    assert running.result(WAIT_S) == "runs"
    assert rig.work.statistics().bytes == 0


def test_threads_hold_no_text_while_they_wait(rig: Rig) -> None:
    class Text:
        pass

    rig.gate.set()
    text = Text()
    gone = weakref.ref(text)
    future = rig.work.submit(lambda text=text: rig.piece(str(text)))  # type: ignore[misc]
    future.result(WAIT_S)
    del text, future
    deadline_s = time.monotonic() + WAIT_S
    while gone() is not None and time.monotonic() < deadline_s:
        gc.collect()
    assert gone() is None


def test_many_threads_lose_and_double_nothing() -> None:
    work = BoundedWork(WorkLimits(threads=4, waiting_max=50, slow_bytes=5))
    done: list[int] = []
    refused: list[int] = []

    def ask(begin: int) -> None:
        for number in range(begin, begin + 200):
            try:
                done.append(work.submit(lambda number=number: number, number % 10).result(WAIT_S))  # type: ignore[misc]
            except OverloadedError:
                refused.append(number)

    threads = [threading.Thread(target=ask, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(done + refused) == sorted(1000 * n + i for n in range(8) for i in range(200))
    now = work.statistics()
    assert (now.waiting, now.bytes, now.counts["done"]) == (0, 0, len(done))
    work.close()


@pytest.mark.parametrize("limits", [{"threads": 0}, {"waiting_max": -1}, {"wait_s_max": 0.0}])
def test_limits_out_of_range_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(limits))):
        WorkLimits(**limits)
