"""A store's own sockets and the index that listens to them: what is said of files is known there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from kvatlas import Atlas, AtlasConfig, PodConfig, SourceConfig, Subscriber
from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import AllBlocksCleared, BlockRemoved, BlockStored
from kvatlas.offload.events.store_events import StoreEvents
from kvatlas.offload.events.store_wire import FilesRemoved, FilesStored, Inventory, by_group, encode
from tests.actors.link.link_peers import wait_until
from tests.ingest.plain_batches import batch, stored

TOKENS = list(range(64))
LOOPBACK = "tcp://127.0.0.1:*"
CONFIG = AtlasConfig(hash_seed="s", pods={"a": PodConfig(stores=("nfs",))})


def key(engine_hash: int, group: int = 0) -> bytes:
    """As a connector names a chunk: a whole digest and the group."""
    return b"\xab" * 24 + engine_hash.to_bytes(8, "big") + group.to_bytes(4, "big")


def new_events(**more: object) -> StoreEvents:
    named = {"store": "nfs", "model": "m", "announcer": "e", "gather_s": 0.001}
    return StoreEvents(LOOPBACK, LOOPBACK, **(named | more))  # type: ignore[arg-type]


class Listening:
    """An index with one worker that knows blocks 1 to 4, subscribed to announcers."""

    def __init__(self, *announcers: StoreEvents) -> None:
        self.atlas = Atlas(CONFIG)
        self.atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2, 3, 4], TOKENS)))
        sources = [
            SourceConfig(endpoint=one.endpoint, replay_endpoint=one.replay_endpoint) for one in announcers
        ]
        self.subscriber = Subscriber(self.atlas, sources)
        self.subscriber.start()

    def blocks(self) -> int:
        return len(self.atlas.residency("m").get("nfs", {}))

    def comes_to(self, n: int) -> bool:
        wait_until(lambda: self.blocks() == n)
        return True

    def close(self) -> None:
        self.subscriber.stop()
        self.atlas.close()


@pytest.fixture
def listening() -> Iterator[Callable[..., Listening]]:
    opened: list[Listening] = []

    def listen(*announcers: StoreEvents) -> Listening:
        opened.append(Listening(*announcers))
        return opened[-1]

    yield listen
    for one in opened:
        one.close()


def test_what_is_written_is_what_servers_write_with_one_word_more() -> None:
    assert by_group([key(1), key(2, 3), key(5)]) == {0: [1, 5], 3: [2]}
    payload = encode([FilesStored([1], 2, 4), FilesRemoved([9], 0), Inventory("begin")], time_s=7.5)
    told = decode_batch(payload)
    assert (told.ts, told.errors, told.unknown_events) == (7.5, (), 0)
    assert told.events == (
        BlockStored(block_hashes=(1,), medium="STORAGE", group_idx=2, chunk_blocks=4),
        BlockRemoved(block_hashes=(9,), medium="STORAGE"),
        AllBlocksCleared("begin"),
    )
    with pytest.raises(InputError, match="at least 12 bytes"):
        by_group([b"short"])


def test_files_come_and_go_and_their_announcer_is_confirmed_but_no_worker(
    listening: Callable[..., Listening],
) -> None:
    with new_events(chunk_blocks=2) as events:
        index = listening(events)
        events.stored([key(2), key(4)])
        assert index.comes_to(4)
        events.removed([key(4)])
        assert index.comes_to(2)
        wait_until(lambda: index.atlas.statistics().announcers[0].truth.state == "EXACT")
        assert [worker.pod for worker in index.atlas.statistics().workers] == ["a"]


def test_who_comes_late_hears_all_of_it_from_the_replay_socket(listening: Callable[..., Listening]) -> None:
    with new_events() as events:
        events.stored([key(1), key(2), key(3)])
        events.removed([key(3)])
        assert events.flush()
        assert listening(events).comes_to(2)


def test_an_inventory_names_all_there_is_and_nothing_that_goes_meanwhile(
    listening: Callable[..., Listening],
) -> None:
    with new_events() as events:
        index = listening(events)
        events.stored([key(1), key(2), key(3)])
        assert index.comes_to(3)

        def walk() -> Iterator[Sequence[bytes]]:
            yield [key(1)]
            events.removed([key(4)])
            yield [key(4), key(2)]

        events.inventory(walk())
        assert index.comes_to(2)
        assert index.atlas.statistics().files["nfs"].swept == 1


def test_an_inventory_that_breaks_off_changes_nothing(listening: Callable[..., Listening]) -> None:
    def broken() -> Iterator[Sequence[bytes]]:
        yield [key(1)]
        raise OSError("the mount is gone")

    with new_events() as events:
        index = listening(events)
        events.stored([key(1), key(2)])
        assert index.comes_to(2)
        with pytest.raises(OSError, match="the mount"):
            events.inventory(broken())
        events.stored([key(3)])
        assert index.comes_to(3)
        assert events.statistics().inventories == 0


def test_a_removal_is_said_again_unless_the_file_is_back(listening: Callable[..., Listening]) -> None:
    was_late = threading.Event()

    def is_there(name: bytes) -> bool:
        """Asked before it is said again: by then the other's announcement has come."""
        return was_late.wait(60) and name == key(2)

    with new_events(repeat_s=0.05, is_there=is_there) as remover, new_events(announcer="other") as other:
        index = listening(remover, other)
        remover.stored([key(1), key(2), key(3)])
        assert index.comes_to(3)
        with remover._changed:  # at once, as far as its thread sees
            remover.removed([key(1), key(2), key(3)])
            remover.stored([key(3)])
        assert index.comes_to(1)
        other.stored([key(1), key(2)])  # an announcement that was under way
        assert index.comes_to(3)
        was_late.set()
        assert index.comes_to(2)
        wait_until(lambda: remover.statistics().repeated == 1)


def test_two_announcers_of_one_store_are_one_truth(listening: Callable[..., Listening]) -> None:
    with new_events() as one, new_events(announcer="other") as other:
        index = listening(one, other)
        one.stored([key(1), key(2)])
        other.stored([key(2), key(3)])
        assert index.comes_to(3)
        other.removed([key(1), key(2)])
        assert index.comes_to(1)


@pytest.mark.slow
def test_a_restarted_announcer_takes_nothing_and_its_inventory_sets_it_right(
    listening: Callable[..., Listening],
) -> None:
    first = new_events()
    index = listening(first)
    first.stored([key(1), key(2)])
    assert index.comes_to(2)
    endpoints = first.endpoint, str(first.replay_endpoint)
    first.close()
    with StoreEvents(*endpoints, store="nfs", model="m", announcer="e", gather_s=0.001) as again:
        again.inventory([[key(2), key(3), key(4)]])
        wait_until(lambda: index.atlas.statistics().files["nfs"].swept == 1)
        assert index.comes_to(3)


def test_what_finds_no_room_is_dropped_and_counted_files_before_removals() -> None:
    go = threading.Event()
    with new_events(queued_max=2, repeat_s=0, clock_s=lambda: 1.0) as events:
        events._publisher.publish = lambda payload: go.wait(10) and None  # type: ignore[method-assign,assignment]
        events.stored([key(1)])
        events.stored([key(2)])
        events.stored([key(3)])
        events.removed([key(1), key(2)])
        events.removed([key(3)])
        told = events.statistics()
        assert (told.dropped_stored, told.dropped_removed, told.queued) == (1, 1, 4)
        go.set()


def test_keys_that_are_none_are_left_out() -> None:
    with new_events() as events:
        events.stored([b"no key", key(1)])
        assert events.flush()
        wait_until(lambda: events.statistics().bad_keys == 1)


def test_close_does_not_wait_for_what_hangs() -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def is_there(_: bytes) -> bool:
        hangs.set()
        return goes_on.wait(30)

    events = new_events(repeat_s=0.001, is_there=is_there)
    events.removed([key(1)])
    assert hangs.wait(10)
    assert not events.close(0.05)
    goes_on.set()
    wait_until(lambda: events.close(0.05))


def test_endpoints_and_names_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="endpoints"):
        StoreEvents("nonsense", None, store="s", model="m", announcer="e")
    with new_events() as taken, pytest.raises(ConfigError):
        StoreEvents(
            taken.endpoint.replace("127.0.0.1", "*"),
            str(taken.replay_endpoint),
            store="s",
            model="m",
            announcer="e",
        )
    for wrong in ({"announcer": ""}, {"store": "a@b"}, {"chunk_blocks": 0}):
        with pytest.raises(InputError):
            new_events(**wrong)


def test_a_store_that_does_not_answer_ends_no_announcer(listening: Callable[..., Listening]) -> None:
    asked: list[bytes] = []

    def is_there(one: bytes) -> bool:
        asked.append(one)
        raise OSError("the store does not answer")

    with new_events(is_there=is_there, repeat_s=0.001) as events:
        index = listening(events)
        events.stored([key(1), key(2), key(3)])
        events.removed([key(1), key(2)])
        wait_until(lambda: events.statistics().repeated == 2)
        assert asked == [key(1)], "each further question would cost a time limit"
        assert events.statistics().unanswered == 1
        events.removed([key(3)])
        assert index.comes_to(0)


def test_what_is_remembered_for_repeats_is_bounded_by_what_is_yet_to_be_repeated() -> None:
    with new_events(repeat_s=3600.0) as events:
        events.removed([key(1), key(2)])
        events.stored([key(number) for number in range(1, 5000)])
        assert events._back == {key(1), key(2)}
        events.removed([key(2)])
        assert events._back == {key(1)}
