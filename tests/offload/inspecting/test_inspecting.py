"""Survey, verify, warm: what they find in a store with everything in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.pins import write_pin
from kvatlas.offload.evicting.evictor import Evictor
from kvatlas.offload.inspecting.survey import survey
from kvatlas.offload.inspecting.verifying import Checked, remove_bad, verify
from kvatlas.offload.inspecting.warming import memory_budget, warm
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import key_of, make_store, put_chunk

PAGE = 4096


@pytest.fixture
def space(tmp_path: Path) -> Space:
    made = make_store(tmp_path / "store", row_bytes=5000)
    for number in range(20):
        put_chunk(made, key_of(number), number.to_bytes(2, "big") * 2500, age_s=100.0 * number)
    return made


def path_of(space: Space, number: int) -> Path:
    return space.part_folder / chunk_name(key_of(number))


def test_a_survey_counts_what_is_there_by_space_and_age(space: Space) -> None:
    other = make_store(space.root, "another/model", "r3", row_bytes=100)
    put_chunk(other, key_of(1), bytes(100), age_s=90_000.0)
    (path_of(space, 1).parent / ".torn.tmp").write_bytes(bytes(7))
    path_of(space, 2).with_name("x.bad").write_bytes(bytes(5))
    (path_of(space, 3).parent / "README").touch()
    seen: list[int] = []
    found = survey(space.root, seen=seen.append)
    assert (found.store, found.files, found.bytes) == ("files", 21, 20 * 3 * PAGE + 2 * PAGE)
    parts = {(one.model, one.part): one for one in found.parts}
    ours = parts["some/model", "all"]
    assert (ours.temporary_files, ours.bad_files, ours.litter_bytes, ours.foreign) == (1, 1, 12, 1)
    assert ours.bytes_by_age == [3 * PAGE, 19 * 3 * PAGE, 0, 0, 0]
    assert 1890 < ours.oldest_s < 1990 and ours.newest_s < 60
    assert parts["another/model", "r3"].bytes_by_age == [0, 0, 0, 2 * PAGE, 0]
    assert found.faults == [] and found.is_by_host_clock and found.used_bytes_by_ledger is None
    assert seen[-1] == 21


def test_a_survey_tells_of_ledger_evictor_and_pins(space: Space) -> None:
    evictor = Evictor(space.root, CapacityLimits(capacity_bytes=1 << 30), lambda *_: None)
    evictor.step()
    write_pin(ControlFolder(space.root), space.name, [key_of(1)])
    found = survey(space.root)
    assert found.used_bytes_by_ledger == 20 * 3 * PAGE and found.crawled is not None
    assert found.evictor is not None and found.evictor.process == os.getpid()
    assert (found.pinned_keys, found.pinned_spaces, found.is_by_host_clock) == (1, [], False)
    evictor.close()


def test_a_survey_names_faults_and_goes_on(space: Space) -> None:
    (space.folder / "config.json").write_text("{}")
    (space.root / "store.json").write_bytes(b"\xff")
    control = ControlFolder(space.root)
    control.prepare()
    (control.pins / "a.pin").write_text("{")
    found = survey(space.root)
    assert found.files == 20 and len(found.faults) == 3


def test_a_whole_store_verifies(space: Space) -> None:
    checked = list(verify(space.root))
    assert len(checked) == 20 and {one.fault for one in checked} == {""}
    assert sum(one.n_bytes for one in checked) == 20 * 3 * PAGE


def test_every_kind_of_damage_is_found_and_named(space: Space) -> None:
    def damaged(number: int, at: int, with_: bytes) -> None:
        with open(path_of(space, number), "r+b") as file:
            file.seek(at)
            file.write(with_)

    damaged(1, 0, b"X")
    damaged(2, PAGE + 17, b"X")
    damaged(3, PAGE + 5000, b"X")  # behind the payload
    os.truncate(path_of(space, 4), 2 * PAGE)
    os.truncate(path_of(space, 5), 0)
    path_of(space, 6).write_bytes(path_of(space, 7).read_bytes())  # another's bytes under its name
    other = make_store(space.root, "another/model", row_bytes=5000)
    put_chunk(other, key_of(1), bytes(5000)).replace(path_of(space, 8))
    bad = {Path(one.path): one for one in verify(space.root) if one.fault}
    assert set(bad) == {path_of(space, number) for number in (1, 2, 3, 4, 5, 6, 8)}
    assert "checksum" in bad[path_of(space, 2)].fault and "fingerprint" in bad[path_of(space, 8)].fault
    assert all(remove_bad(one) for one in bad.values())
    left = list(verify(space.root))
    assert len(left) == 13 and {one.fault for one in left} == {""}


def test_files_of_a_space_without_its_fields_are_held_to_their_own_heads(space: Space) -> None:
    (space.folder / "config.json").unlink()
    os.truncate(path_of(space, 4), 2 * PAGE)
    bad = [one for one in verify(space.root) if one.fault]
    assert [one.is_space for one in bad] == [True, False]


def test_a_file_that_was_written_anew_is_not_removed(space: Space) -> None:
    checked = Checked(str(path_of(space, 1)), 3 * PAGE, "was bad a moment ago")
    assert not remove_bad(checked) and path_of(space, 1).exists()
    assert not remove_bad(Checked(str(path_of(space, 99)), 0, "is gone"))
    assert [name for name in os.listdir(path_of(space, 1).parent) if name.endswith(".tmp")] == []


def test_the_newest_files_are_read_up_to_the_budget(space: Space) -> None:
    seen: list[int] = []
    done = warm(space.root, 5 * 3 * PAGE + 100, seen=seen.append)
    assert (done.files, done.bytes, done.left_out_bytes) == (5, 5 * 3 * PAGE, 15 * 3 * PAGE)
    assert done.cached_files in (5, None) and seen[-1] == done.bytes
    assert warm(space.root, 0).files == 0
    assert memory_budget() > 1 << 20
