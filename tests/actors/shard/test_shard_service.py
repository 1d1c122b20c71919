"""One shard, case by case: what it applies, whom it fences, when it is whole."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Kind
from kvatlas.actors.orders import ShardOrders, ShardReport, decode, encode
from kvatlas.actors.shard import service as service_module
from kvatlas.actors.shard import sessions as sessions_module
from kvatlas.actors.shard.service import ShardService
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.actors.shard.table_files import open_table, table_prefix
from kvatlas.index._native import Excerpt, TableReader
from kvatlas.index.errors import ConfigError, StaleTableError
from tests.actors.shard.shard_rig import ASKS, KEYS, Talk, adds, array, holders, service, settings
from tests.models.table import ADD, CLEAR_LANE, REMOVE, Record


def test_a_session_loads_goes_on_by_deltas_and_a_gap_needs_content_again() -> None:
    shard = service()
    shard.sessions_live([5])
    talk = Talk(shard, 5)
    assert talk.hello()[0:4:3] == (Kind.RESYNC, 0)
    assert talk.delta(1, adds(1, 10)).kind is Kind.RESYNC, "nothing before content"
    assert talk.content(3, [1], adds(1, 10, 11))[0:4:3] == (Kind.APPLIED, 3)
    assert shard.is_whole
    assert talk.delta(4, Record(REMOVE, 1, 1, (10,)), adds(2, 12))[0:4:3] == (Kind.APPLIED, 4)
    assert talk.delta(4, adds(1, 99))[0:4:3] == (Kind.APPLIED, 4), "a repeat is not applied"
    assert holders(shard, [10, 11, 12, 99]) == [{}, {1: 1}, {2: 1}, {}]
    assert talk.delta(6, adds(1, 20))[0:4:3] == (Kind.RESYNC, 4)
    assert not shard.is_whole, "something is missing"
    assert talk.hello()[0:4:3] == (Kind.RESYNC, 4)
    assert talk.delta(5, adds(1, 20)).kind is Kind.RESYNC
    assert talk.content(7, [1], adds(1, 20)).kind is Kind.APPLIED
    assert shard.is_whole
    assert talk.hello()[0:4:3] == (Kind.APPLIED, 7)
    assert holders(shard, [11, 12, 20]) == [{}, {}, {1: 1}], "lanes that content does not name are emptied"


def test_content_in_parts_counts_when_the_last_has_come() -> None:
    shard = service()
    shard.sessions_live([5])
    talk = Talk(shard, 5)
    talk.content(1, [1, 2, 3], adds(1, 10), adds(2, 10), adds(3, 10))
    assert talk.content(2, [1], adds(1, 11), last=False).kind is Kind.APPLIED
    assert not shard.is_whole and talk.hello()[0:4:3] == (Kind.RESYNC, 2)
    assert holders(shard, [10, 11]) == [{2: 1, 3: 1}, {1: 1}], "a lane at a time"
    assert talk.delta(3, adds(4, 12)).kind is Kind.APPLIED, "a worker that came meanwhile"
    assert talk.content(4, [], adds(1, 13), first=False, last=False).kind is Kind.APPLIED, "a lane goes on"
    assert talk.content(6, [2], adds(2, 11), first=False).kind is Kind.RESYNC, "a part is missing"
    assert talk.content(5, [2], adds(2, 11), first=False).kind is Kind.RESYNC, "only the first one helps"
    for number, lane in ((7, 1), (8, 2)):
        answer = talk.content(number, [lane], adds(lane, 14), first=lane == 1, last=False)
        assert answer.kind is Kind.APPLIED
    assert talk.delta(9, adds(4, 15)).kind is Kind.APPLIED
    assert talk.content(10, [], first=False).kind is Kind.APPLIED
    assert shard.is_whole
    assert holders(shard, [10, 11, 12, 13, 14, 15]) == [{}, {}, {4: 1}, {}, {1: 1, 2: 1}, {4: 1}]


def test_a_retired_session_leaves_nothing_and_is_told_to_end() -> None:
    shard = service()
    old, other = Talk(shard, 5), Talk(shard, 6)
    old.content(1, [1], adds(1, 10))
    other.content(1, [2], adds(2, 10))
    shard.retire([5, 99])
    assert holders(shard, [10]) == [{2: 1}]
    for answer in (
        old.hello(),
        old.delta(2, adds(1, 10)),
        old.content(2, [1], adds(1, 10)),
        Talk(shard, 99).hello(),
    ):
        assert answer.kind is Kind.FENCED and answer.is_session_over
        assert "it is over" in answer.text
    assert holders(shard, [10]) == [{2: 1}]
    assert shard.report().loaded == (6,)


def test_a_lane_goes_to_the_later_session_and_not_back() -> None:
    shard = service()
    old, new = Talk(shard, 5), Talk(shard, 6)
    old.content(1, [1, 2], adds(1, 10), adds(2, 10))
    new.content(1, [])
    assert new.delta(2, adds(1, 11)).kind is Kind.APPLIED
    assert holders(shard, [10, 11]) == [{2: 1}, {1: 1}], "what the old one had there is gone"
    answer = old.delta(2, adds(2, 12), adds(1, 12))
    assert answer.kind is Kind.FENCED and answer.is_session_over
    assert answer.text == "session 5: lane 1: expected one of this session, it is of session 6"
    assert holders(shard, [12]) == [{}], "all of a message or nothing"
    assert old.delta(2, adds(2, 12)).kind is Kind.APPLIED, "the lanes that it still has are its own"
    assert old.content(3, [2], adds(2, 13)).kind is Kind.APPLIED
    assert holders(shard, [11]) == [{1: 1}], "its content does not empty what is no longer its own"


def test_whole_means_every_live_session_and_nobody_asked_before_it_was_told() -> None:
    shard, changes = service(), []
    shard.on_change = lambda: changes.append(shard.is_whole)
    Talk(shard, 5).content(1, [])
    assert not shard.is_whole
    shard.sessions_live([5, 6])
    assert not shard.is_whole
    Talk(shard, 6).content(1, [])
    shard.sessions_live([5, 6, 7])
    shard.obey(ShardOrders(sessions=(6,), retired=(5, 7)))
    shard.doubt()
    shard.obey(ShardOrders(sessions=(6,)))
    assert not shard.is_whole
    shard.trust()
    assert changes == [True, False, True, False, True]


def test_readers_of_the_file_see_wholeness_and_the_end(tmp_path: Path) -> None:
    shard = service(str(tmp_path))
    assert Path(shard.path).parent == tmp_path
    reader = TableReader(shard.path)
    assert not reader.whole
    shard.sessions_live([5])
    Talk(shard, 5).content(1, [1], adds(1, 10))
    assert reader.whole
    assert reader.lookup(array([10])) == [[(1, 1)]]
    shard.close()
    shard.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(StaleTableError):
        reader.lookup(array([10]))
    answer = Talk(shard, 5).hello()
    assert answer.kind is Kind.FENCED and not answer.is_session_over


def test_a_fetch_is_answered_with_what_the_table_knows() -> None:
    shard = service()
    shard.sessions_live([5])
    wanted = [10, 11, 99, 10]
    assert not Talk(shard, 0).fetch(wanted).is_whole
    Talk(shard, 5).content(1, [1, 2], adds(1, 10, 11), Record(ADD, 2, 4, (10,)))
    answer, keys = Talk(shard, 0).fetch(wanted), array(wanted)
    assert answer.kind is Kind.EXCERPT and answer.is_whole
    assert Excerpt([keys], [answer.body]).lookup(keys) == shard.table.lookup(keys)
    assert Talk(shard, 0).ask(messages.touch(shard.address, keys)).kind is Kind.APPLIED
    counts = shard.report().counts
    assert (counts["fetches"], counts["fetched_keys"], counts["touches"]) == (2, 8, 1)


def test_a_fetch_of_too_many_keys_or_with_too_long_an_answer_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "FETCH_KEYS_MAX", 3)
    shard = service()
    assert Talk(shard, 0).fetch(KEYS[:4]).text == "fetch: expected at most 3 keys, got 4"
    small = msgspec.structs.replace(
        settings(), link=msgspec.structs.replace(settings().link, message_bytes_max=50)
    )
    shard = ShardService("c", ASKS, 7, small)
    assert "expected an answer of at most 50 bytes" in Talk(shard, 0).fetch(KEYS[:3]).text


def test_answers_are_no_requests_and_strangers_are_told_what_is_spoken() -> None:
    shard = service()
    asked = messages.decode_message(messages.hello(shard.address, 1))
    assert Talk(shard, 1).ask(messages.applied(asked)).text == "kind: expected a request, got APPLIED"
    newer = b"kva1\x02" + messages.hello(shard.address, 1)[5:]
    assert Talk(shard, 1).ask(newer).text == "frame: expected version 1, got 2"
    assert Talk(shard, 1).ask(b"").kind is Kind.REFUSED
    assert shard.report().counts["refused"] == 3


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "SESSIONS_MAX", 3)
    monkeypatch.setattr(sessions_module, "RETIRED_MAX", 10)
    shard = service()
    for number in range(1, 4):
        Talk(shard, number).content(1, [number])
    assert Talk(shard, 4).hello().text == "sessions: expected at most 3, got one more"
    shard.retire([1])
    assert Talk(shard, 4).hello().kind is Kind.RESYNC
    shard.retire(range(100, 120))
    assert Talk(shard, 119).hello().kind is Kind.FENCED, "the newest of the retired are known"


def test_sessions_of_many_threads_do_not_disturb_each_other() -> None:
    shard = service()
    shard.sessions_live(range(1, 9))
    start = threading.Barrier(8)

    def feed(session: int) -> None:
        talk = Talk(shard, session)
        start.wait()
        for load in range(10):
            first = load * 100 + 1
            assert talk.content(first, [session], adds(session, 1, 2, 3)).kind is Kind.APPLIED
            for number in range(first + 1, first + 20):
                change = adds(session, 4 + number % 30) if number % 2 else Record(REMOVE, session, 1, (2,))
                assert talk.delta(number, change).kind is Kind.APPLIED
                assert talk.fetch(KEYS).kind is Kind.EXCERPT

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(feed, range(1, 9)))
    assert shard.is_whole
    expected = dict.fromkeys(range(1, 9), 1)
    assert holders(shard, [1, 2, 3, 4 + 919 % 30]) == [expected, {}, expected, expected]


def test_a_successor_that_takes_lanes_while_they_are_written_leaves_nothing_of_its_predecessor() -> None:
    shard = service()
    old, new = Talk(shard, 1), Talk(shard, 2)
    old.content(1, [1])
    new.content(1, [])
    fenced = threading.Event()

    def write() -> None:
        number = 2
        while old.delta(number, adds(1, 10)).kind is Kind.APPLIED:
            number += 1
        fenced.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert new.delta(2, adds(1, 11)).kind is Kind.APPLIED
    writer.join()
    assert fenced.is_set()
    assert holders(shard, [10, 11]) == [{}, {1: 1}]


def test_without_room_the_table_is_private_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = service(str(tmp_path / "missing"))
    report = shard.report("tcp://here:1")
    assert (report.replica.path, report.replica.endpoint, report.counts["table_private"]) == (
        "",
        "tcp://here:1",
        1,
    )
    assert "the table is in private memory" in caplog.text
    assert "table_private" not in service("").report().counts, "nobody wanted shared memory"
    Talk(shard, 5).content(1, [1], adds(1, 10))
    assert holders(shard, [10]) == [{1: 1}]


def test_what_dead_processes_left_is_removed_and_what_lives_stays(tmp_path: Path) -> None:
    alive = open_table(str(tmp_path), "c", ASKS, 1, 4 << 20)
    other = open_table(str(tmp_path), "c-2", ASKS, 1, 4 << 20)
    dead = tmp_path / f"{table_prefix('c')}1-2-0-0"
    dead.write_bytes(Path(alive.path).read_bytes())
    (tmp_path / f"{table_prefix('c')}1-2-0-0.1").write_bytes(b"x")
    second = open_table(str(tmp_path), "c", ASKS, 2, 4 << 20)
    left = {path.name for path in tmp_path.iterdir() if not path.suffix}
    assert left == {Path(table.path).name for table in (alive, other, second)}


@pytest.mark.parametrize("name", ["", "a/b", "a@b", "..\n", "a" * 65])
def test_a_cluster_whose_name_is_no_files_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cluster: expected 1 to 64 letters"):
        service_module.ShardService(name, ASKS, 1, settings())


@pytest.mark.parametrize(
    "wrong", [{"heartbeat_s": 0.0}, {"table_bytes_max": 5}, {"pause_s_max": float("nan")}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"shard\.{next(iter(wrong))}: expected"):
        ShardSettings(**wrong)  # type: ignore[arg-type]


def test_settings_and_reports_survive_the_way_to_another_process() -> None:
    assert decode(encode(settings("/x")), ShardSettings) == settings("/x")
    report = service().report("tcp://here:1")
    assert decode(encode(report), ShardReport) == report


def test_a_lane_cleared_by_its_session_is_still_its_own() -> None:
    shard = service()
    talk = Talk(shard, 5)
    talk.content(1, [1], adds(1, 10))
    assert talk.delta(2, Record(CLEAR_LANE, 1), adds(1, 11)).kind is Kind.APPLIED
    assert holders(shard, [10, 11]) == [{}, {1: 1}]
    assert np.all(shard.table.lookup(array([10]))[0] == [])
