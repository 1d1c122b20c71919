"""Where batches come from: names, several sources for one worker, introductions; a clock by hand."""

from __future__ import annotations

import pytest

from kvatlas import Atlas, AtlasConfig, InputError, PodConfig, StreamLimits
from kvatlas.ingest.feed import Feed, FeedNames, FeedRequest
from tests.ingest.plain_batches import batch, stored

TOKENS = list(range(64))
TOPIC = b"kv@a@m"
FIRST = batch(stored([1, 2], TOKENS[:32]))
SECOND = batch(stored([3, 4], TOKENS[32:], 2))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def new_atlas(clock: Clock, **pods: PodConfig) -> Atlas:
    return Atlas(AtlasConfig(stream=StreamLimits(contested_s=10.0), pods=pods), clock_s=clock)


def state(atlas: Atlas) -> tuple[str, set[str]]:
    (worker,) = atlas.statistics().workers
    return worker.truth.state, {reason.name for reason in worker.truth.reasons}


def answer(feed: Feed, *batches: tuple[int, bytes], topic: bytes | None = TOPIC) -> FeedRequest:
    (request,) = feed.requests()
    request.handler.began(request.number)
    for seq, payload in batches:
        if seq >= request.start:
            request.handler.replayed(request.number, topic, seq, payload)
    request.handler.ended(request.number)
    return request


def settle(clock: Clock, feed: Feed, *batches: tuple[int, bytes]) -> None:
    """A moment after a connection came to stand it is asked once more."""
    clock.now_s += 0.3
    feed.tick()
    answer(feed, *batches)


def test_names_come_from_the_topic_then_the_source_then_the_configuration() -> None:
    atlas = Atlas(AtlasConfig(default_pod="p0", default_model="m0", pods={"p1": PodConfig(model="m1")}))
    atlas.feed(FeedNames(pod="source", model="model")).receive(b"kv@topic@named", 0, FIRST)
    atlas.feed(FeedNames(pod="source", model="model")).receive(b"", 0, FIRST)
    atlas.feed(FeedNames(pod="p1")).receive(b"whatever", 0, FIRST)
    atlas.feed().receive(b"", 0, FIRST)
    atlas.feed(FeedNames(pod="ranked", model="m0", rank=3)).receive(b"", 0, FIRST)
    told = batch(stored([1], TOKENS[:16]), rank=2)
    atlas.feed(FeedNames(pod="told", model="m0", rank=3)).receive(b"", 0, told)
    workers = {(w.pod, w.rank, w.model) for w in atlas.statistics().workers}
    assert workers == {
        ("topic", 0, "named"),
        ("source", 0, "model"),
        ("p1", 0, "m1"),
        ("p0", 0, "m0"),
        ("ranked", 3, "m0"),
        ("told", 2, "m0"),
    }
    atlas.close()


def test_a_source_whose_names_override_speaks_for_no_pod_but_its_own() -> None:
    clock = Clock()
    atlas = new_atlas(clock)
    honest = atlas.feed(FeedNames(pod="a", model="m"))
    honest.receive(TOPIC, 0, FIRST)
    forger = atlas.feed(FeedNames(pod="z", overrides=True), has_replay=True, introduces=True)
    forger.opened()
    answer(forger, (0, FIRST), topic=TOPIC)
    forger.receive(TOPIC, 1, batch({"type": "AllBlocksCleared"}))
    workers = {w.pod: (w.model, w.sequence, w.truth.state) for w in atlas.statistics().workers}
    assert workers["a"] == ("m", 0, "EXACT")
    assert workers["z"][:2] == ("m", 1)
    both = atlas.feed(FeedNames(pod="y", model="n", overrides=True))
    both.receive(TOPIC, 0, FIRST)
    assert {w.model for w in atlas.statistics().workers if w.pod == "y"} == {"n"}
    atlas.close()


def test_an_idle_warm_worker_is_known_from_its_introduction_alone() -> None:
    clock = Clock()
    atlas = new_atlas(clock)
    feed = atlas.feed(has_replay=True, introduces=True)
    feed.opened()
    request = answer(feed, (0, FIRST))
    assert (request.start, request.handler.pod) == (0, "a")
    assert state(atlas) == ("DEGRADED", {"joining"}), "the second batch came before the subscription stood"
    settle(clock, feed, (0, FIRST), (1, SECOND))
    assert state(atlas) == ("EXACT", set())
    assert dict(atlas.score([*TOKENS, 1], model="m")) == {"a": 4.0}
    assert feed.requests() == []
    atlas.close()


def test_a_server_that_has_published_nothing_is_asked_again_after_a_while() -> None:
    clock = Clock()
    atlas = new_atlas(clock)
    feed = atlas.feed(has_replay=True, introduces=True)
    feed.opened()
    answer(feed)
    assert feed.requests() == [] and atlas.statistics().workers == ()
    clock.now_s += 11.0
    feed.tick()
    answer(feed, (0, FIRST))
    settle(clock, feed, (0, FIRST))
    assert state(atlas) == ("EXACT", set())
    atlas.close()


def test_an_introduction_that_names_nobody_fails_with_what_was_expected() -> None:
    atlas = new_atlas(Clock())
    feed = atlas.feed(has_replay=True, introduces=True)
    feed.opened()
    (request,) = feed.requests()
    request.handler.began(request.number)
    request.handler.replayed(request.number, b"no names", 0, FIRST)
    assert atlas.statistics().skips["introductions_failed"] == 1
    assert atlas.statistics().workers == ()
    atlas.close()


def test_an_answer_of_another_pod_is_not_taken_for_the_workers_own() -> None:
    atlas = new_atlas(Clock())
    feed = atlas.feed(has_replay=True)
    feed.opened()
    feed.receive(TOPIC, 0, FIRST)
    feed.receive(TOPIC, 5, SECOND)
    answer(feed, (0, FIRST), (1, SECOND), topic=b"kv@other@m")
    truth, reasons = state(atlas)
    assert truth == "DEGRADED" and "unconfirmed" in reasons
    assert [w.pod for w in atlas.statistics().workers] == ["a"]
    atlas.close()


def test_an_answer_of_another_rank_is_not_taken_for_the_workers_own() -> None:
    atlas = new_atlas(Clock())
    feed = atlas.feed(has_replay=True)
    feed.receive(TOPIC, 0, batch(stored([1, 2], TOKENS[:32]), rank=0))
    feed.receive(TOPIC, 5, batch(stored([9], TOKENS[:16], 2), rank=0))
    answer(feed, (0, batch(stored([1, 2], TOKENS[:32]), rank=1)))
    assert "unconfirmed" in state(atlas)[1]
    atlas.close()


def test_of_two_sources_that_claim_one_worker_the_second_is_left_out_and_both_are_told() -> None:
    clock = Clock()
    atlas = new_atlas(clock)
    one, other = atlas.feed(), atlas.feed()
    one.opened()
    one.receive(TOPIC, 0, FIRST)
    other.opened()
    other.receive(TOPIC, 0, batch(stored([7], [9] * 16)))
    assert state(atlas) == ("DEGRADED", {"contested"})
    assert dict(atlas.score([9] * 17, model="m")) == {}
    (worker,) = atlas.statistics().workers
    assert worker.stream["contested"] == 1
    clock.now_s += 11.0
    one.receive(TOPIC, 1, SECOND)
    one.tick()
    assert state(atlas) == ("EXACT", set()), "the other has fallen silent"
    atlas.close()


def test_a_source_whose_connection_is_broken_loses_its_worker_to_one_that_hears_it() -> None:
    clock = Clock()
    atlas = new_atlas(clock)
    one, other = atlas.feed(), atlas.feed(has_replay=True)
    one.opened()
    one.receive(TOPIC, 0, FIRST)
    one.closed()
    other.opened()
    other.receive(TOPIC, 1, SECOND)
    answer(other, (0, FIRST), (1, SECOND))
    settle(clock, other, (0, FIRST), (1, SECOND))
    assert state(atlas) == ("EXACT", set())
    assert dict(atlas.score([*TOKENS, 1], model="m")) == {"a": 4.0}
    one.opened()
    one.receive(TOPIC, 2, SECOND)
    assert "contested" in state(atlas)[1]
    atlas.close()


def test_a_worker_taken_over_by_a_source_without_replay_is_not_vouched_for() -> None:
    atlas = new_atlas(Clock())
    one, other = atlas.feed(), atlas.feed()
    one.opened()
    one.receive(TOPIC, 0, FIRST)
    one.close()
    other.opened()
    other.receive(TOPIC, 1, SECOND)
    assert state(atlas) == ("DEGRADED", {"lost", "missed"})
    atlas.close()


def test_a_pod_that_is_removed_comes_back_as_a_new_worker_when_it_speaks() -> None:
    atlas = new_atlas(Clock())
    feed = atlas.feed(has_replay=True)
    feed.opened()
    feed.receive(TOPIC, 0, FIRST)
    atlas.remove_pod("a")
    assert atlas.statistics().workers == () and feed.requests() == []
    feed.receive(TOPIC, 1, SECOND)
    answer(feed, (0, FIRST), (1, SECOND))
    assert state(atlas) == ("EXACT", set())
    atlas.close()


@pytest.mark.parametrize("other_engine", [False, True])
def test_a_late_answer_for_a_removed_pod_changes_nothing_of_who_has_its_lanes_now(other_engine: bool) -> None:
    clock = Clock()
    atlas = new_atlas(clock)
    feed = atlas.feed(has_replay=True)
    feed.receive(TOPIC, 0, FIRST)
    feed.opened()
    (request,) = feed.requests()
    request.handler.began(request.number)
    atlas.remove_pod("a")
    atlas.ingest(b"kv@b@m", 0, FIRST)
    before = atlas.residency("m"), dict(atlas.score([*TOKENS, 1], model="m"))
    request.handler.replayed(request.number, TOPIC, 0, SECOND if other_engine else FIRST)
    request.handler.replayed(request.number, TOPIC, 1, SECOND)
    request.handler.ended(request.number)
    request.handler.failed(request.number, "broken")
    assert (atlas.residency("m"), dict(atlas.score([*TOKENS, 1], model="m"))) == before
    assert before[1] == {"b": 2.0}
    assert [worker.pod for worker in atlas.statistics().workers] == ["b"]
    atlas.close()


def test_a_clear_makes_a_late_joiner_complete_where_it_cannot_have_offloaded() -> None:
    for offloads, expected in ((False, ("EXACT", set())), (None, ("PARTIAL", {"missed_offloaded"}))):
        atlas = new_atlas(Clock(), a=PodConfig(offloads=offloads))
        atlas.ingest(TOPIC, 7, FIRST)
        assert state(atlas) == ("PARTIAL", {"missed"})
        atlas.ingest(TOPIC, 8, batch({"type": "AllBlocksCleared"}))
        assert state(atlas) == expected
        atlas.close()


def test_a_late_joiner_is_complete_when_as_many_copies_are_known_as_the_engine_has_blocks() -> None:
    atlas = new_atlas(Clock(), a=PodConfig(gpu_blocks=4, offloads=False))
    atlas.ingest(TOPIC, 7, FIRST)
    assert state(atlas) == ("PARTIAL", {"missed"})
    atlas.ingest(TOPIC, 8, SECOND)
    assert state(atlas) == ("EXACT", set())
    atlas.close()


def test_what_was_lost_is_healed_by_turnover_of_what_was_held_before() -> None:
    atlas = new_atlas(Clock())
    atlas.ingest(TOPIC, 0, FIRST)
    atlas.ingest(TOPIC, 2, SECOND)
    assert state(atlas)[1] == {"lost", "missed"}
    atlas.ingest(TOPIC, 3, batch({"type": "BlockRemoved", "block_hashes": [2]}))
    assert "lost" in state(atlas)[1]
    atlas.ingest(TOPIC, 4, batch({"type": "BlockRemoved", "block_hashes": [1]}))
    truth, reasons = state(atlas)
    assert truth == "PARTIAL" and "lost" not in reasons and "missed" in reasons
    atlas.close()


def test_events_that_cannot_be_read_are_a_doubt_until_a_clear() -> None:
    atlas = new_atlas(Clock(), a=PodConfig(offloads=False))
    atlas.ingest(TOPIC, 0, FIRST)
    atlas.ingest(TOPIC, 1, batch({"type": "SomethingLater"}))
    assert "unread" in state(atlas)[1]
    atlas.ingest(TOPIC, 2, batch({"type": "AllBlocksCleared"}))
    assert state(atlas) == ("EXACT", set())
    atlas.close()


def test_a_worker_whose_release_tells_no_extras_is_partial_for_salted_prompts() -> None:
    for trusts, plain in ((True, "EXACT"), (False, "DEGRADED")):
        atlas = new_atlas(Clock(), a=PodConfig(trust_absent_extras=trusts))
        atlas.ingest(TOPIC, 0, batch({**stored([1, 2], TOKENS[:32]), "extra_keys": None}))
        (match,) = atlas.score(TOKENS, model="m").matches
        assert match.truth == plain
        salted = batch({**stored([7], TOKENS[:16]), "extra_keys": [["salt"]]})
        atlas.ingest(TOPIC, 1, salted)
        (match,) = atlas.score(TOKENS, model="m", cache_salt="salt").matches
        assert match.truth == ("PARTIAL" if trusts else "DEGRADED")
        atlas.close()


def test_a_sequence_that_is_no_number_is_refused() -> None:
    atlas = new_atlas(Clock())
    with pytest.raises(InputError, match="expected an int"):
        atlas.feed().receive(TOPIC, "0", FIRST)  # type: ignore[arg-type]
    assert atlas.statistics().events["refused_payloads"] == 1
    atlas.close()
