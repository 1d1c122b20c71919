"""The byte cap of an object store: kept by listing, the oldest go first, and what is young stays."""

from __future__ import annotations

import pytest

from kvatlas.offload._native import chunk_name, file_bytes
from kvatlas.offload.backends.objects_capacity import ObjectsCapacity
from kvatlas.offload.backends.objects_client import ObjectClient
from kvatlas.offload.capacity.limits import CapacityLimits
from tests.offload.backends.object_server import Answer
from tests.offload.backends.objects_at_hand import PART, Rig
from tests.offload.storing.files_at_hand import ROW_BYTES, key_of, wait_for

pytest.importorskip("obstore")
pytest.importorskip("moto")

OBJECT_BYTES = file_bytes(ROW_BYTES)
FOLDER = PART.partition("/")[2]


def _capacity(rig: Rig, n_objects: int, lease_s: float = 0.0, folder: str = FOLDER) -> ObjectsCapacity:
    client = ObjectClient(rig.settings.root, rig.settings.objects, 8.0)
    limits = CapacityLimits(
        capacity_bytes=n_objects * OBJECT_BYTES, high_share=0.9, low_share=0.5, lease_s=lease_s, touch_s=0.0
    )
    return ObjectsCapacity(client, folder, OBJECT_BYTES, limits, list_s=0.02, list_again_s=0.01)


def _there(rig: Rig) -> list[bytes]:
    return [key for batch in rig.backend.inventory() for key in batch]


def _store_in_two_seconds(rig: Rig) -> None:
    """Twelve chunks, the last two of a later second than the others: no finer time has a listing."""
    rig.store(*range(10))
    newest_s = _newest_s(rig)

    def is_later() -> bool:
        rig.store(10)
        if _newest_s(rig) > newest_s:
            return True
        rig.server.request("DELETE", f"/kv-chunks/{PART}/{_name(10)}")
        return False

    wait_for(is_later)
    rig.store(11)


def _newest_s(rig: Rig) -> float:
    client = ObjectClient(rig.settings.root, rig.settings.objects, 8.0)
    return max(one.modified_s for batch in client.listing(FOLDER) for one in batch)


def _name(number: int) -> str:
    return chunk_name(key_of(number))


@pytest.mark.slow
def test_the_oldest_go_until_the_low_threshold_and_are_told(rig: Rig) -> None:
    _store_in_two_seconds(rig)
    capacity = _capacity(rig, 12)
    capacity.start()
    try:
        wait_for(lambda: capacity.statistics()["evicted_objects"] == 6)
        removed, left = list(capacity.take_removed()), _there(rig)
        assert sorted(removed + left) == sorted(key_of(number) for number in range(12))
        assert len(left) == 6
        assert {key_of(10), key_of(11)} <= set(left)
        wait_for(lambda: capacity.statistics()["listings"] > 3)
        assert len(_there(rig)) == 6
        assert capacity.statistics()["evicted_bytes"] == 6 * OBJECT_BYTES
    finally:
        capacity.close(5.0)


@pytest.mark.slow
def test_what_is_younger_than_a_lease_stays(rig: Rig) -> None:
    _store_in_two_seconds(rig)
    capacity = _capacity(rig, 4, lease_s=600.0)
    capacity.start()
    try:
        wait_for(lambda: capacity.statistics()["listings"] > 3)
        assert len(_there(rig)) == 12
        assert not capacity.may_store(1)
        assert capacity.statistics()["refused_chunks"] == 1
    finally:
        capacity.close(5.0)


@pytest.mark.slow
def test_what_is_evicted_of_other_parts_is_not_told(rig: Rig) -> None:
    _store_in_two_seconds(rig)
    capacity = _capacity(rig, 12, folder=f"{FOLDER}-of-another")
    capacity.start()
    try:
        wait_for(lambda: capacity.statistics()["evicted_objects"] == 6)
        assert capacity.take_removed() == []
    finally:
        capacity.close(5.0)


@pytest.mark.slow
def test_room_is_reserved_and_given_back(rig: Rig) -> None:
    capacity = _capacity(rig, 4)
    assert capacity.may_store(3)
    assert not capacity.may_store(2)
    capacity.not_stored(2)
    assert capacity.may_store(2)
    capacity.stored(3)
    assert not capacity.may_store(2)
    assert capacity.may_store(1)
    assert capacity.statistics()["used_bytes"] == 3 * OBJECT_BYTES


@pytest.mark.slow
def test_a_listing_that_fails_is_counted_and_done_again(rig: Rig) -> None:
    rig.store(1, 2)
    rig.proxy.judge = lambda request: Answer(403) if "list-type" in request.path else None
    capacity = _capacity(rig, 4)
    capacity.start()
    try:
        wait_for(lambda: capacity.statistics()["failed_listings"] > 1)
        assert capacity.may_store(1)
        rig.proxy.judge = lambda request: None
        wait_for(lambda: capacity.statistics()["listings"] > 0)
        assert capacity.statistics()["used_bytes"] == 2 * OBJECT_BYTES
    finally:
        capacity.close(5.0)


@pytest.mark.slow
def test_without_a_cap_nothing_is_asked_of_the_store(rig: Rig) -> None:
    before = len(rig.proxy.requests)
    capacity = ObjectsCapacity(
        ObjectClient(rig.settings.root, rig.settings.objects, 8.0), FOLDER, OBJECT_BYTES, CapacityLimits()
    )
    capacity.start()
    assert capacity.may_store(1_000_000)
    capacity.close(5.0)
    assert len(rig.proxy.requests) == before
