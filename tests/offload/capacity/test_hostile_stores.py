"""What others leave in a store, by mistake or on purpose, ends no thread and holds nobody up."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload.capacity.capacity import Capacity
from kvatlas.offload.capacity.control import ControlFolder, read_small
from kvatlas.offload.capacity.ledger import CrawledUsage, Ledger, new_entry
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.notices import RemovalNotices
from kvatlas.offload.evicting.evictor import Evictor
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import files_of, key_of, make_store, put, wait_until

_NO_SPACES = ("lost+found", "backups")


@pytest.fixture
def space(tmp_path: Path) -> Space:
    one = make_store(tmp_path / "store")
    ControlFolder(one.root).prepare()
    return one


@pytest.fixture
def opened(space: Space) -> Iterator[Callable[[], Capacity]]:
    made: list[Capacity] = []

    def make() -> Capacity:
        limits = CapacityLimits(
            capacity_bytes=1 << 20, period_s=0.01, dead_s=30.0, lease_s=0.0, touch_s=0.0, crawl_s=0.1
        )
        made.append(Capacity(space.root, limits, writer=os.urandom(16), folder=space.part_folder))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_notices_of_keys_that_can_be_none_are_left_out(space: Space, opened: Callable[[], Capacity]) -> None:
    notices = RemovalNotices(space.root)
    notices.leave(space.name, [b"", b"abc", b"x" * 500, key_of(1)])
    (space.root / "control" / "removed" / space.name / "0000000000000000.keys").write_bytes(b"{")
    capacity = opened()
    wait_until(lambda: capacity.take_removed() == [key_of(1)], "the one that is a key is told")
    assert capacity.statistics().failures == 0


def test_a_folder_in_a_notice_s_place_stops_no_writer(space: Space, opened: Callable[[], Capacity]) -> None:
    (space.root / "control" / "removed" / space.name / "0000000000000000.keys").mkdir(parents=True)
    RemovalNotices(space.root).leave(space.name, [key_of(1)])
    capacity = opened()
    wait_until(lambda: capacity.take_removed() == [key_of(1)], "the notice beside it is found")
    wait_until(lambda: capacity.may_store(4096), "there is room")


@pytest.mark.parametrize("digits", [30, 400])
def test_figures_that_no_store_can_have_are_not_believed(space: Space, digits: int) -> None:
    control, huge = ControlFolder(space.root), 10**digits
    entry = msgspec.structs.replace(new_entry("a", "space"), written_bytes=huge, claimed_bytes=huge)
    usage = CrawledUsage(
        total_bytes=-huge, total_files=1, counted={}, crawled_unix_ns=1, crawl_s=0.0, evictor="e"
    )
    (control.ledger / "a.json").write_bytes(_json(entry))
    control.usage.write_bytes(_json(usage))
    ledger = Ledger(control)
    assert ledger.entries() == {} and ledger.broken == 1
    assert ledger.usage() is None


@pytest.mark.parametrize("date_s", [14_000_000_000, -(1 << 33)])
def test_a_file_dated_in_another_age_is_no_reason_to_stop(space: Space, date_s: int) -> None:
    path = put(space.part_folder, key_of(1), 4096)
    os.utime(path, ns=(date_s * 10**9, date_s * 10**9))
    for number in range(2, 40):
        put(space.part_folder, key_of(number), 4096, age_s=1000.0)
    evictor = Evictor(space.root, CapacityLimits(capacity_bytes=1 << 16), lambda space, keys: None)
    assert evictor.step()
    assert evictor.statistics().evicted_bytes > 0
    assert len(files_of(space.root)) < 39
    evictor.close()


def test_a_crawl_of_the_future_is_made_anew(space: Space) -> None:
    for number in range(3):
        put(space.part_folder, key_of(number), 4096)
    control = ControlFolder(space.root)
    ledger = Ledger(control)
    ledger.write_usage(
        CrawledUsage(
            total_bytes=0, total_files=0, counted={}, crawled_unix_ns=1 << 61, crawl_s=0.0, evictor="e"
        )
    )
    evictor = Evictor(space.root, CapacityLimits(capacity_bytes=1 << 20), lambda space, keys: None)
    assert evictor.step()
    assert evictor.statistics().used_bytes == 3 * 4096
    evictor.close()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "odd")
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises((StoreError, OSError)):
        read_small(tmp_path / "odd")
    assert not set(os.listdir("/proc/self/fd")) - before


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_s_folders_and_files_stop_neither_crawls_nor_notes_of_use(space: Space) -> None:
    """As on a disk of its own, whose root has a lost+found that only root may look into."""
    theirs = put(space.part_folder, key_of(1), 4096)
    ours = put(space.part_folder, key_of(2), 4096, age_s=1000.0)
    for folder in (space.root, *(one for one in space.root.rglob("*") if one.is_dir())):
        folder.chmod(0o777)
    for name in _NO_SPACES:
        (space.root / name).mkdir(mode=0o700)
    os.chown(ours, 65534, 65534)
    for folder in space.root.parents:  # pytest's are for their owner only
        if stat.S_IMODE(folder.stat().st_mode) & 0o005 != 0o005:
            folder.chmod(0o755)
    program = _AS_ANOTHER_USER.format(root=str(space.root), folder=str(space.part_folder))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["1", "True"]
    assert theirs.exists()


_AS_ANOTHER_USER = """
import os
from pathlib import Path
from kvatlas.offload.capacity.capacity import Capacity
from kvatlas.offload.capacity.limits import CapacityLimits
from tests.offload.capacity.stores_at_hand import key_of, wait_until
os.setgroups([]); os.setgid(65534); os.setuid(65534)
limits = CapacityLimits(capacity_bytes=1 << 20, period_s=0.01, touch_s=0.0)
one = Capacity(Path({root!r}), limits, writer=bytes(16), folder=Path({folder!r}))
one.touched([key_of(1), key_of(2)])
wait_until(lambda: one.statistics().touched, "the second is noted, whatever the first one says")
wait_until(lambda: one.may_store(4096), "the store was counted and has room")
print(one.statistics().touched, one.statistics().is_open)
one.close()
"""


def _json(one: msgspec.Struct) -> bytes:
    import json  # msgspec writes no such numbers

    return json.dumps({name: getattr(one, name) for name in one.__struct_fields__}).encode()
