"""The evictor's lease: one holder, takeover of the dead, whatever any clock says."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.lease import EvictorLease, LeaseHolder, holder_of
from kvatlas.offload.capacity.store_clock import StoreClock
from tests.offload.capacity.stores_at_hand import make_store, wait_until


@pytest.fixture
def control(tmp_path: Path) -> ControlFolder:
    make_store(tmp_path / "store")
    one = ControlFolder(tmp_path / "store")
    one.prepare()
    return one


def lease(control: ControlFolder, token: str, dead_s: float = 60.0) -> EvictorLease:
    holder = LeaseHolder(token=token, host="here", process=os.getpid())
    return EvictorLease(control, StoreClock(), holder, dead_s)


def aged(control: ControlFolder, age_s: float) -> None:
    dated_ns = control.lease.stat().st_mtime_ns - int(age_s * 1e9)
    os.utime(control.lease, ns=(dated_ns, dated_ns))


def test_one_holds_it_until_it_gives_it_back(control: ControlFolder) -> None:
    first, second = lease(control, "first"), lease(control, "second")
    assert first.take() and first.take() and not second.take()
    found = holder_of(control)
    assert found is not None and found.token == "first"
    first.release()
    assert second.take() and not first.take()


def test_of_many_at_once_one_gets_it(control: ControlFolder) -> None:
    leases = [lease(control, f"{number}") for number in range(8)]
    barrier, taken = threading.Barrier(8), []

    def take(one: EvictorLease) -> None:
        barrier.wait()
        if one.take():
            taken.append(one)

    threads = [threading.Thread(target=take, args=(one,)) for one in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_a_lease_that_is_old_by_the_stores_clock_is_taken_over_and_its_holder_notices(
    control: ControlFolder,
) -> None:
    first, second = lease(control, "first", dead_s=0.5), lease(control, "second")
    first.take()
    aged(control, 61.0)
    assert second.take() and second.taken_over == 1
    wait_until(lambda: not first.renew(), "the first sees that the lease is another's")
    first.release()
    assert second.renew() and control.lease.exists()


def test_a_date_in_the_future_does_not_keep_a_dead_holder_alive(control: ControlFolder) -> None:
    lease(control, "first").take()
    aged(control, -1e6)
    second = lease(control, "second", dead_s=0.05)
    assert not second.take()
    wait_until(second.take, "the lease is taken over once it was seen unchanged for long enough")


def test_a_holder_that_goes_on_is_not_taken_for_dead(control: ControlFolder) -> None:
    first, second = lease(control, "first", dead_s=0.2), lease(control, "second", dead_s=30.0)
    first.take()
    before = control.lease.stat().st_mtime_ns
    wait_until(lambda: first.renew() and control.lease.stat().st_mtime_ns > before, "the lease is renewed")
    assert not second.take()


def test_a_lease_without_content_is_held_all_the_same_until_it_is_old(control: ControlFolder) -> None:
    control.lease.write_bytes(b"")
    assert holder_of(control) is None
    second = lease(control, "second")
    assert not second.take()
    aged(control, 61.0)
    assert second.take()


def test_a_takeover_that_meets_a_new_holder_puts_its_lease_back(control: ControlFolder) -> None:
    lease(control, "dead").take()
    aged(control, 61.0)
    slow = lease(control, "slow")
    assert slow._is_dead()  # and before it goes on, another takes the lease
    quick = lease(control, "quick")
    assert quick.take()
    slow._bury()
    assert not slow._create()
    found = holder_of(control)
    assert found is not None and found.token == "quick"
