"""One evictor over a store: thresholds, order, leases, skewed clocks, crashes, roots that fail."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.ledger import Ledger, new_entry
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.evicting.evictor import Evictor
from kvatlas.offload.evicting.planning import plan_eviction
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import (
    bytes_of,
    files_of,
    key_of,
    last_used,
    make_store,
    put,
    wait_until,
)

KB = 1024


class Told:
    """Who is told of removals."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def __call__(self, _space: str, keys: Sequence[bytes]) -> None:
        self.keys.extend(keys)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return make_store(tmp_path / "store")


def filled(space: Space, n_files: int, n_bytes: int = 4 * KB) -> list[Path]:
    """The first was not used for longest."""
    return [
        put(space.part_folder, key_of(number), n_bytes, age_s=10_000.0 - number) for number in range(n_files)
    ]


def limits(**given: float) -> CapacityLimits:
    return CapacityLimits(**{"capacity_bytes": 400 * KB, "lease_s": 60.0, **given})  # type: ignore[arg-type]


def test_a_store_within_its_limits_is_counted_and_left_alone(space: Space) -> None:
    filled(space, 90)
    told = Told()
    evictor = Evictor(space.root, limits(), told)
    assert evictor.step()
    state = evictor.statistics()
    assert (state.files, state.used_bytes, state.evicted_bytes) == (90, 360 * KB, 0)
    assert told.keys == [] and len(files_of(space.root)) == 90
    evictor.close()


@pytest.mark.slow
@pytest.mark.parametrize("candidates_max", [7, 1000])
def test_from_high_to_low_the_least_recently_used_go(space: Space, candidates_max: int) -> None:
    files = filled(space, 100)
    told = Told()
    evictor = Evictor(space.root, limits(high_share=0.95, low_share=0.5), told, candidates_max=candidates_max)
    evictor.step()
    assert set(files_of(space.root)) == set(files[50:])
    assert sorted(told.keys) == sorted(key_of(number) for number in range(50))
    state = evictor.statistics()
    assert (state.used_bytes, state.evicted_bytes) == (200 * KB, 200 * KB)
    usage = Ledger(ControlFolder(space.root)).usage()
    assert usage is not None and usage.total_bytes == 200 * KB
    evictor.close()


def test_what_is_leased_is_never_deleted_however_full_the_store(space: Space) -> None:
    files = filled(space, 100)
    for path in files[:80]:
        last_used(path, 30.0)
    evictor = Evictor(space.root, limits(capacity_bytes=100 * KB), Told())
    evictor.step()
    assert set(files_of(space.root)) == set(files[:80])
    crawls = evictor.statistics().counts["crawls"]
    evictor.step()
    assert evictor.statistics().counts["stuck"] == 2
    assert evictor.statistics().counts["crawls"] == crawls  # no crawl would show more
    evictor.close()


def test_what_was_counted_twice_is_counted_again_where_nothing_may_go(space: Space) -> None:
    for path in filled(space, 20):
        last_used(path, 30.0)
    evictor = Evictor(space.root, limits(capacity_bytes=100 * KB), Told())
    evictor.step()
    # Its files lay there already when the crawl came by; it says so only now.
    n_bytes, name = 60 * KB, f"{bytes(16).hex()}-{bytes(4).hex()}"
    late = msgspec.structs.replace(
        new_entry(name, space.name), written_bytes=n_bytes, written_files=15, claimed_bytes=n_bytes
    )
    Ledger(ControlFolder(space.root)).write(late)
    evictor.step()
    assert evictor.statistics().used_bytes == 80 * KB
    assert len(files_of(space.root)) == 20
    evictor.close()


@pytest.mark.parametrize("skew_s", [-86_400.0, 86_400.0])
def test_ages_are_by_the_stores_clock_whatever_this_hosts_says(
    space: Space, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    files = filled(space, 100)
    for path in files[50:]:
        last_used(path, 30.0)
    host_time, host_time_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: host_time() + skew_s)
    monkeypatch.setattr(time, "time_ns", lambda: host_time_ns() + int(skew_s * 1e9))
    evictor = Evictor(space.root, limits(capacity_bytes=100 * KB), Told())
    evictor.step()
    assert set(files_of(space.root)) == set(files[50:])
    evictor.close()


def test_files_dated_in_the_future_are_in_use(space: Space) -> None:
    files = filled(space, 100)
    for path in files[:30]:
        last_used(path, -86_400.0)
    evictor = Evictor(space.root, limits(capacity_bytes=100 * KB), Told())
    evictor.step()
    assert set(files_of(space.root)) == set(files[:30])
    evictor.close()


def test_the_free_space_floor_evicts_where_there_is_no_cap(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(space, 100)
    # The disk is as if it had 1 MiB for all: others have taken what the store has not.
    monkeypatch.setattr(ControlFolder, "free_bytes", lambda _: 500 * KB - bytes_of(space.root))
    evictor = Evictor(space.root, CapacityLimits(free_bytes_min=300 * KB), Told())
    evictor.step()
    assert bytes_of(space.root) <= 200 * KB * 0.85
    evictor.close()


def test_another_evictor_waits_and_takes_over(space: Space) -> None:
    filled(space, 100)
    first = Evictor(space.root, limits(), Told())
    second = Evictor(space.root, limits(low_share=0.1), Told())
    assert first.step() and not second.step()
    left = len(files_of(space.root))
    put(space.part_folder, key_of(1000), 200 * KB, age_s=99_999.0)
    assert not second.step() and len(files_of(space.root)) == left + 1
    first.close()
    assert second.step()
    second.close()


def test_litter_and_bad_files_go_when_they_are_old(space: Space) -> None:
    path = put(space.part_folder, key_of(1))
    names = {"old": 3600.0, "new": 1.0}
    for name, age_s in names.items():
        litter = path.with_name(f".{path.name}.{name}.1.tmp")
        litter.write_bytes(bytes(1000))
        last_used(litter, age_s)
    control = ControlFolder(space.root)
    control.prepare()
    stray = control.ledger / ".entry.json.1234.tmp"
    stray.write_bytes(b"{")
    last_used(stray, 3600.0)
    evictor = Evictor(space.root, limits(), Told())
    evictor.step()
    assert sorted(name for name in os.listdir(path.parent) if name.endswith(".tmp")) == [
        f".{path.name}.new.1.tmp"
    ]
    assert not stray.exists()
    assert evictor.statistics().used_bytes == 4096 + 1000
    evictor.close()


def test_folders_that_are_empty_for_long_go_and_others_stay(space: Space) -> None:
    full = put(space.part_folder, key_of(1)).parent
    old, new = space.part_folder / "000", space.part_folder / "001"
    for folder in (old, new):
        folder.mkdir(exist_ok=True)
    os.utime(old, ns=(0, 0))
    os.utime(full, ns=(0, 0))
    empty_part = space.folder / "r5"
    empty_part.mkdir()
    os.utime(empty_part, ns=(0, 0))
    evictor = Evictor(space.root, limits(), Told())
    evictor.step()
    assert not old.exists() and new.exists() and full.exists() and not empty_part.exists()
    assert (space.folder / "config.json").exists()
    evictor.close()


def test_a_writer_that_is_dead_leaves_the_ledger_once_a_crawl_has_counted_its_files(space: Space) -> None:
    from kvatlas.offload.capacity.ledger import new_entry

    control = ControlFolder(space.root)
    control.prepare()
    ledger = Ledger(control)
    for name in ("dead", "alive"):
        ledger.write(new_entry(name, space.name))
    last_used(control.ledger / "dead.json", 3600.0)
    evictor = Evictor(space.root, limits(), Told())
    evictor.step()
    assert set(ledger.entries()) == {"alive"}
    evictor.close()


def test_a_root_that_vanishes_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    space = make_store(tmp_path / "store")
    filled(space, 10)
    evictor = Evictor(space.root, limits(), Told())
    evictor.step()
    space.root.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(StoreError, match="expected the folder of a store"):
            evictor.step()
    assert not space.root.exists()
    (tmp_path / "away").rename(space.root)
    assert evictor.step()
    evictor.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_store_that_cannot_be_written_is_one_error(space: Space) -> None:
    filled(space, 10)
    space.root.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="expected to make it"):
            Evictor(space.root, limits(), Told()).step()
    finally:
        space.root.chmod(0o700)


def test_who_cannot_be_told_stops_the_deletion_and_is_told_later(space: Space) -> None:
    files = filled(space, 100)
    told, is_down = Told(), True

    def tell(name: str, keys: Sequence[bytes]) -> None:
        if is_down:
            raise OSError("nobody listens")
        told(name, keys)

    evictor = Evictor(space.root, limits(capacity_bytes=200 * KB, lease_s=0.0, touch_s=0.0), tell)
    with pytest.raises(OSError, match="nobody listens"):
        evictor.step()
    is_down = False
    gone = {path.name for path in files} - {path.name for path in files_of(space.root)}
    evictor._deleter.empty_trash(time.time_ns(), 0, 0)  # what the next evictor does a minute later
    assert {chunk_name(key).rpartition("/")[2] for key in told.keys} == gone and gone
    evictor.close()


def test_a_plan_says_what_would_go_and_writes_nothing_that_stays(space: Space) -> None:
    filled(space, 100)
    plan = plan_eviction(space.root, limits(low_share=0.5))
    assert [one.key for one in plan.would_delete] == [key_of(number) for number in range(50)]
    assert (plan.used_bytes, plan.would_free_bytes, plan.missing_bytes) == (400 * KB, 200 * KB, 0)
    assert plan.is_by_host_clock and len(files_of(space.root)) == 100
    assert not (space.root / "control").exists()
    evictor = Evictor(space.root, limits(low_share=0.5), Told())
    evictor.step()
    assert not {one.key for one in plan.would_delete} & {
        key_of(number) for number in range(100) if (space.part_folder / chunk_name(key_of(number))).exists()
    }
    evictor.close()


def test_a_step_stops_where_it_is(space: Space) -> None:
    filled(space, 300)
    evictor = Evictor(space.root, limits(), lambda *_: evictor.stop())
    evictor.step()
    assert 100 < len(files_of(space.root)) < 300
    wait_until(lambda: not evictor.step() or True, "it comes back")
    evictor.close()
    assert not (space.root / "control" / "evictor.lease").exists()
