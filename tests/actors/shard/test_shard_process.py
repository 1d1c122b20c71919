"""The life of a shard's process: enlisted, served, paused, superseded, unwanted, abandoned, killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.link.client import SocketLinks
from kvatlas.actors.link.messages import Address, Kind, content, decode_message, hello
from kvatlas.actors.orders import LinkKeys, Replica, ShardAsks, ShardOrders, ShardReport, decode
from kvatlas.actors.shard.process import ShardProcess
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.index._native import TableReader, remove_dead_tables
from kvatlas.index.errors import StaleTableError
from tests.actors.link.link_peers import WAIT_S, ask_until_answered, error_of, new_keys, wait_until
from tests.actors.shard.shard_program import ShardProgram
from tests.actors.shard.shard_rig import ASKS, adds, array
from tests.models.table import delta

HERE = Address(1, 2, 7)


@pytest.fixture(scope="module")
def keys() -> LinkKeys:
    return new_keys()


@pytest.fixture
def shard_settings(tmp_path: Path) -> ShardSettings:
    return ShardSettings(
        table_bytes_max=4 << 20,
        shared_memory_folder=str(tmp_path),
        heartbeat_s=0.02,
        pause_s_max=30.0,  # on a busy machine
        directory_gone_s_max=0.3,
        owned=True,
    )


@pytest.fixture
def program(shard_settings: ShardSettings) -> Iterator[ShardProgram]:
    made = ShardProgram(shard_settings)
    yield made
    made.kill()


@pytest.fixture
def links(keys: LinkKeys) -> Iterator[SocketLinks]:
    made = SocketLinks(keys)
    yield made
    made.close()


def orders(keys: LinkKeys, *sessions: int) -> ShardOrders:
    return ShardOrders(incarnation=HERE.incarnation, sessions=sessions, keys=keys)


def enlisted(program: ShardProgram, keys: LinkKeys, *sessions: int) -> Replica:
    """What it reports first."""
    word, told = program.question()
    assert (word, decode(told, ShardAsks)) == ("enlist", ASKS)
    program.answer(None)
    assert program.question()[0] == "enlist", "it asks until it is answered"
    program.answer(orders(keys, *sessions))
    return program.report().replica


@pytest.mark.slow
def test_it_serves_what_it_was_told_and_tells_at_once_when_it_is_whole(
    program: ShardProgram, keys: LinkKeys, links: SocketLinks
) -> None:
    replica = enlisted(program, keys, 5)
    assert replica.incarnation == 7 and not replica.whole
    link = links.open(replica.endpoint)
    reader = TableReader(replica.path)
    assert decode_message(ask_until_answered(link, hello(HERE, 5))).kind is Kind.RESYNC
    link.request(content(HERE, 5, 1, [1], delta([adds(1, 10)])), WAIT_S).result(WAIT_S)
    assert reader.lookup(array([10])) == [[(1, 1)]]
    assert reader.whole
    program.answer(orders(keys, 5))
    report = program.report()
    assert (report.replica.whole, report.loaded, report.applied) == (True, (5,), {5: 1})
    assert report.counts["contents"] == 1 and report.counts["link_requests"] >= 2
    program.answer(msgspec.structs.replace(orders(keys), retired=(5,)))
    program.report()
    assert reader.lookup(array([10])) == [[]]
    assert decode_message(link.request(hello(HERE, 5), WAIT_S).result(WAIT_S)).is_session_over


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (ShardOrders(incarnation=7, goes=True), "goes"),
        (ShardOrders(), "breaks"),
        (ShardOrders(incarnation=8), "breaks"),
    ],
)
def test_unwanted_it_goes_for_good_and_superseded_it_leaves_the_name_to_its_successor(
    program: ShardProgram, keys: LinkKeys, tmp_path: Path, answer: ShardOrders, end: str
) -> None:
    reader = TableReader(enlisted(program, keys).path)
    program.answer(answer)
    assert program.question()[0] == end
    assert not list(tmp_path.iterdir())
    with pytest.raises(StaleTableError):
        reader.lookup(array([10]))


@pytest.mark.slow
def test_unwanted_from_the_start_it_goes_at_once(program: ShardProgram) -> None:
    program.question()
    program.answer(ShardOrders(goes=True))
    assert program.question()[0] == "goes"


@pytest.mark.slow
def test_unwanted_from_the_start_it_removes_what_its_predecessor_has_left(
    program: ShardProgram, shard_settings: ShardSettings, keys: LinkKeys, tmp_path: Path
) -> None:
    enlisted(program, keys)
    program.kill()
    assert list(tmp_path.iterdir())
    successor = ShardProgram(shard_settings)
    try:
        successor.question()
        successor.answer(ShardOrders(goes=True))
        assert successor.question()[0] == "goes"
        assert not list(tmp_path.iterdir())
    finally:
        successor.kill()


@pytest.mark.slow
def test_without_keys_for_its_socket_it_breaks(program: ShardProgram) -> None:
    program.question()
    program.answer(ShardOrders(incarnation=7))
    assert program.question()[0] == "breaks"


@pytest.mark.slow
@pytest.mark.parametrize("is_enlisted", [True, False])
def test_of_an_owned_cluster_it_goes_when_the_directory_is_gone(
    program: ShardProgram, keys: LinkKeys, is_enlisted: bool
) -> None:
    if is_enlisted:
        enlisted(program, keys)
    else:
        program.question()
    program.leave()
    assert program.question()[0] == "goes"


@pytest.mark.slow
def test_a_lost_directory_changes_nothing_for_those_that_it_served(
    keys: LinkKeys, links: SocketLinks, shard_settings: ShardSettings
) -> None:
    program = ShardProgram(msgspec.structs.replace(shard_settings, owned=False))
    try:
        replica = enlisted(program, keys, 5)
        program.leave()
        reader, link = TableReader(replica.path, age_ms_max=2000), links.open(replica.endpoint)
        for number in range(1, 50):
            frame = content(HERE, 5, number, [1], delta([adds(1, number)]))
            assert decode_message(ask_until_answered(link, frame)).number == number
            assert reader.lookup(array([number])) == [[(1, 1)]]
        assert reader.whole
    finally:
        program.kill()


@pytest.mark.slow
def test_paused_it_is_not_believed_until_the_directory_has_spoken(
    keys: LinkKeys, shard_settings: ShardSettings
) -> None:
    program = ShardProgram(msgspec.structs.replace(shard_settings, pause_s_max=0.5))
    try:
        reader = TableReader(enlisted(program, keys).path)
        wait_until(lambda: reader.whole)
        program.answer(orders(keys))
        program.report()
        wait_until(lambda: reader.age_ms < 100)
        os.kill(program.process.pid, signal.SIGSTOP)
        wait_until(lambda: reader.age_ms > 1000)
        os.kill(program.process.pid, signal.SIGCONT)
        wait_until(lambda: not reader.whole)
        assert reader.age_ms > 1000, "it does not say that it lives"
        program.answer(orders(keys))  # to what it asked before
        program.report()
        assert not reader.whole and reader.age_ms > 1000
        program.answer(orders(keys))
        wait_until(lambda: reader.whole and reader.age_ms < 100)
    finally:
        program.kill()


@pytest.mark.slow
def test_killed_it_leaves_files_that_readers_and_successors_know_for_dead(
    program: ShardProgram, keys: LinkKeys, links: SocketLinks, tmp_path: Path
) -> None:
    replica = enlisted(program, keys, 5)
    link, reader = links.open(replica.endpoint), TableReader(replica.path, age_ms_max=200)
    ask_until_answered(link, hello(HERE, 5))
    program.kill()
    assert "no connection in time" in error_of(link.request(hello(HERE, 5), 0.3))

    def is_stale() -> bool:
        try:
            reader.lookup(array([1]))
        except StaleTableError:
            return True
        return False

    wait_until(is_stale)
    assert remove_dead_tables(str(tmp_path), "kvatlas-") == 1
    assert not list(tmp_path.iterdir())


class Dismissing:
    """A directory that wants the shard no more as soon as `goes`."""

    def __init__(self) -> None:
        self.goes = False
        self.reports = 0

    def enlist(self, asks: ShardAsks) -> ShardOrders:
        return ShardOrders(incarnation=7)

    def report(self, report: ShardReport) -> ShardOrders:
        self.reports += 1
        return ShardOrders(incarnation=7, goes=self.goes)

    def is_gone(self) -> bool:
        return False


def test_it_reports_at_once_when_asked_to(tmp_path: Path) -> None:
    settings = ShardSettings(
        table_bytes_max=4 << 20, shared_memory_folder=str(tmp_path), heartbeat_s=3600.0, transport="ray"
    )
    directory, ended, broken = Dismissing(), threading.Event(), threading.Event()
    process = ShardProcess("c", ASKS, settings, directory, host="", goes=ended.set, breaks=broken.set)
    wait_until(lambda: directory.reports > 0)
    directory.goes = True
    process.report_now()
    assert ended.wait(WAIT_S) and not broken.is_set()
    process.close()
