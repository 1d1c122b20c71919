"""The ledger's files: read, summed, broken, bounded."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from kvatlas.index.errors import StoreError
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.ledger import CrawledUsage, Ledger, LedgerEntry, new_entry, sums_of
from tests.offload.capacity.stores_at_hand import make_store


@pytest.fixture
def control(tmp_path: Path) -> ControlFolder:
    make_store(tmp_path / "store")
    one = ControlFolder(tmp_path / "store")
    one.prepare()
    return one


def entry(name: str, written: int, claimed: int | None = None) -> LedgerEntry:
    return msgspec.structs.replace(
        new_entry(name, "space"), written_bytes=written, claimed_bytes=written if claimed is None else claimed
    )


def usage(total: int, **counted: int) -> CrawledUsage:
    return CrawledUsage(
        total_bytes=total, total_files=1, counted=counted, crawled_unix_ns=1, crawl_s=0.0, evictor="e"
    )


def test_what_a_crawl_has_counted_is_not_counted_again() -> None:
    sums = sums_of(usage(1000, a=70), [entry("a", 100, 150), entry("b", 10)])
    assert (sums.used_bytes, sums.claimed_bytes, sums.n_writers) == (1000 + 30 + 10, 1000 + 80 + 10, 2)


def test_an_entry_that_began_again_never_counts_below_nothing() -> None:
    assert sums_of(usage(1000, a=70), [entry("a", 5)]).used_bytes == 1000


def test_without_a_crawl_nothing_is_known(control: ControlFolder) -> None:
    Ledger(control).write(entry("a", 10))
    sums = Ledger(control).sums()
    assert (sums.is_known, sums.used_bytes) == (False, 10)


def test_entries_and_usage_come_back_as_written(control: ControlFolder) -> None:
    Ledger(control).write(entry("a", 10, 20))
    Ledger(control).write_usage(usage(7, a=3))
    ledger = Ledger(control)
    assert ledger.entries()["a"].entry == entry("a", 10, 20)
    assert ledger.usage() == usage(7, a=3)
    ledger.write(entry("a", 11, 20))
    assert ledger.entries()["a"].entry.written_bytes == 11
    ledger.remove("a")
    ledger.remove("a")
    assert ledger.entries() == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff" * 100, b"{}", b"x" * 100_000, msgspec.json.encode(entry("other", 1))],
)
def test_an_entry_that_is_none_is_counted_and_left_out(control: ControlFolder, content: bytes) -> None:
    (control.ledger / "a.json").write_bytes(content)
    ledger = Ledger(control)
    assert ledger.entries() == {} and ledger.broken == 1


def test_an_entry_that_claims_less_than_it_wrote_is_none(control: ControlFolder) -> None:
    Ledger(control).write(entry("a", 10, 5))
    assert Ledger(control).entries() == {}


def test_pipes_folders_and_temporary_files_are_no_entries(control: ControlFolder) -> None:
    os.mkfifo(control.ledger / "pipe.json")
    (control.ledger / "folder.json").mkdir()
    (control.ledger / ".a.json.1234.tmp").write_bytes(b"{")
    ledger = Ledger(control)
    assert ledger.entries() == {} and ledger.broken == 0


def test_a_torn_usage_counts_as_none(control: ControlFolder) -> None:
    Ledger(control).write_usage(usage(7))
    content = control.usage.read_bytes()
    control.usage.write_bytes(content[: len(content) // 2])
    assert Ledger(control).usage() is None


def test_the_root_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected the folder of a store"):
        ControlFolder(tmp_path / "not mounted").prepare()
    assert not (tmp_path / "not mounted").exists()
