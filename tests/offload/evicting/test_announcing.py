"""What the service tells indexes: all that is there when it begins, and every removal, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from kvatlas.index.errors import ConfigError, StoreError
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import BlockRemoved, BlockStored
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.evicting.announcing import Announcing
from kvatlas.offload.evicting.service import EvictService
from kvatlas.offload.evicting.settings import AnnouncedModel, EvictSettings, StoreToEvict
from kvatlas.offload.layout.space import open_space
from tests.offload.capacity.stores_at_hand import key_of, make_store, put, wait_until
from tests.offload.space_fields import fields_of

KB = 1024


class Follower:
    """Hears one announcer, as a subscriber of an index does."""

    def __init__(self, endpoint: str) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        self.socket.connect(endpoint.replace("*", "127.0.0.1").replace("0.0.0.0", "127.0.0.1"))
        self.socket.subscribe(b"")
        self.topics: set[bytes] = set()
        self.stored: set[bytes] = set()
        self.removed: set[bytes] = set()

    def has(self, stored: set[bytes], removed: set[bytes]) -> bool:
        """Takes what has come; whether all of these were told."""
        while self.socket.poll(0):
            topic, _, payload = self.socket.recv_multipart()
            self.topics.add(topic)
            for event in decode_batch(payload).events:
                if isinstance(event, BlockStored):
                    self.stored.update(self.hashes(event))
                elif isinstance(event, BlockRemoved):
                    self.removed.update(self.hashes(event))
        return self.stored >= stored and self.removed >= removed

    @staticmethod
    def hashes(event: BlockStored | BlockRemoved) -> set[bytes]:
        return {one.to_bytes(8, "big") for one in event.block_hashes}

    def close(self) -> None:
        self.socket.close(0)
        self.context.term()


def short(numbers: Iterator[int] | range) -> set[bytes]:
    """The hashes in events of these keys."""
    return {key_of(number)[-12:-4] for number in numbers}


def settings_of(root: Path, endpoint: str = "tcp://127.0.0.1:*", served_name: str = "") -> EvictSettings:
    limits = CapacityLimits(capacity_bytes=200 * KB, low_share=0.5, period_s=0.01, crawl_s=1.0)
    announce = AnnouncedModel(model="some/model", endpoint=endpoint, served_name=served_name)
    return EvictSettings(stores=(StoreToEvict(root=str(root), limits=limits, announce=(announce,)),))


@pytest.mark.slow
def test_what_is_there_is_named_and_what_is_evicted_is_told_by_the_served_name(tmp_path: Path) -> None:
    space = make_store(tmp_path / "store")
    other = make_store(tmp_path / "store", "another/model")
    for number in range(40):
        put(space.part_folder, key_of(number), 4 * KB, age_s=9000.0 - number)
    put(other.part_folder, key_of(999), 4 * KB, age_s=10_000.0)
    service = EvictService(settings_of(space.root, served_name="served"))
    endpoint, replay = service.endpoints[str(space.root)]["some/model"]
    assert replay is None
    follower = Follower(endpoint)
    service.start()
    try:
        wait_until(lambda: follower.has(short(range(40)), set()), "all files are named")
        assert follower.removed == set()
        for number in range(40, 100):
            put(space.part_folder, key_of(number), 4 * KB, age_s=1000.0 - number)
        # 75 go where the next crawl finds all of them; one that comes before leaves up to 47 below `high`.
        wait_until(lambda: follower.has(set(), short(range(50))), "removals are told")
        assert not follower.removed & short(range(80, 100))
        assert {topic.rpartition(b"@")[2] for topic in follower.topics} == {b"served"}
        assert all(topic.startswith(b"kv@store:files#evict-") for topic in follower.topics)
        (state,) = service.states()
        assert state.unannounced == 1 and len(state.parts) == 2
    finally:
        service.stop()
        follower.close()


def test_files_that_a_part_lacks_are_not_named(tmp_path: Path) -> None:
    first, second = (make_store(tmp_path / "store", part=part) for part in ("r0", "r1"))
    for number in range(10):
        put(first.part_folder, key_of(number))
        if number < 5:
            put(second.part_folder, key_of(number))
    service = EvictService(settings_of(first.root))
    follower = Follower(service.endpoints[str(first.root)]["some/model"][0])
    service.start()
    try:
        wait_until(lambda: follower.has(short(range(5)), set()), "whole files are named")
        assert follower.stored == short(range(5))
    finally:
        service.stop()
        follower.close()


def test_a_model_with_files_of_several_lengths_cannot_have_one_socket(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    longer = msgspec.structs.replace(fields_of(), blocks_per_chunk=4)
    open_space(tmp_path / "store", longer, store="files")
    with pytest.raises(StoreError, match=r"files of one number of blocks for 'some/model', got \[1, 4\]"):
        EvictService(settings_of(tmp_path / "store"))


def test_an_inventory_after_a_long_pause_counts_as_progress(tmp_path: Path) -> None:
    store = settings_of(make_store(tmp_path / "store").root).stores[0]
    announcing = Announcing(store)
    try:
        announcing.progress_s = 0.0  # the last one was long ago, and this store has nothing to name
        announcing.tell_all()
        assert announcing.progress_s > 0.0
    finally:
        announcing.close()


def test_a_socket_that_is_taken_is_one_clear_error(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    service = EvictService(settings_of(tmp_path / "store"))
    endpoint, _ = service.endpoints[str(tmp_path / "store")]["some/model"]
    taken = f"tcp://*:{endpoint.rpartition(':')[2]}"
    with pytest.raises(ConfigError, match=r"Address already in use"):
        EvictService(settings_of(tmp_path / "store", endpoint=taken))
    service.stop()
