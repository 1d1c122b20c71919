"""A cut over the shards of a small cluster on real sockets, while its sessions go on writing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvatlas.actors.moving.cut import ClusterCut, CutSettings, TornError, take_cut
from kvatlas.actors.subscriber.holding import HoldAsks
from kvatlas.index.errors import ClusterError
from tests.actors.link.link_peers import wait_until
from tests.actors.moving.cut_rig import CutRig, content


@pytest.fixture
def rig() -> Iterator[CutRig]:
    rig = CutRig()
    with rig.closing:
        yield rig


def is_free(rig: CutRig) -> bool:
    """Nothing is held: what is told now arrives."""
    for session in rig.sessions.values():
        mark = session.outbox.mark()
        wait_until(lambda one=session, at=mark: one.outbox.has_delivered(at))  # type: ignore[misc]
    return True


def ends(cut: ClusterCut) -> dict[str, int]:
    """How many chains each pod has; fails where one is missing before the last."""
    chains = content(cut)
    assert all(held == list(range(len(held))) for held in chains.values()), "a hole: the cut is torn"
    return {pod: len(held) for pod, held in chains.items()}


def test_cut_of_a_quiet_cluster_is_what_its_mirrors_hold(rig: CutRig) -> None:
    cut = take_cut(rig)
    assert ends(cut) == {"pod1a": 1, "pod1b": 1, "pod2a": 1, "pod2b": 1}
    assert cut.pairs == 4 * 3


@pytest.mark.slow
def test_cut_under_load_is_of_one_moment_of_each_session(rig: CutRig) -> None:
    for session in rig.sessions.values():
        session.write()
    for _ in range(5):
        wait_until(lambda: all(one.told[1] > one.seen for one in rig.sessions.values()))
        found = ends(take_cut(rig))
        for session in rig.sessions.values():
            first, second = (found[pod] for pod in session.pods())
            assert first - second in (0, 1), "its workers are told of in turn"
            assert session.told[0] >= first > session.seen
            session.seen = first
    assert is_free(rig)


def test_hold_that_nobody_releases_ends_by_itself(rig: CutRig) -> None:
    session = rig.sessions[1]
    asks = HoldAsks(token=5, incarnations=(), limit_s=0.2)
    wait_until(lambda: session.outbox.hold(asks).is_held)
    session.tell()
    assert is_free(rig)
    assert session.outbox.statistics().counts["holds_expired"] == 1
    assert not session.outbox.release(5)


def test_second_hold_beside_one_that_stands_is_refused(rig: CutRig) -> None:
    rig.sessions[1].outbox.hold(HoldAsks(token=5, incarnations=(), limit_s=20.0))
    with pytest.raises(ClusterError, match="another one stands"):
        take_cut(rig)
    assert rig.sessions[1].outbox.release(5) in (True, False)
    assert is_free(rig)


def test_what_is_told_while_held_arrives_after_the_release_and_not_before(rig: CutRig) -> None:
    session = rig.sessions[1]
    asks = HoldAsks(token=5, incarnations=(), limit_s=20.0)
    wait_until(lambda: session.outbox.hold(asks).is_held)
    session.tell()
    assert content(take_cut_of_shards(rig))["pod1a"] == [0]
    assert session.outbox.release(5)
    assert is_free(rig)
    assert content(take_cut(rig))["pod1a"] == [0, 1]


def take_cut_of_shards(rig: CutRig) -> ClusterCut:
    """With session 1 as one that is lost: its hold is somebody else's."""
    rig.lost = (1,)
    try:
        return take_cut(rig)
    finally:
        rig.lost = ()


def test_lost_session_is_in_the_cut_as_it_was_and_vouched_for_by_nobody(rig: CutRig) -> None:
    rig.lost = (1,)
    cut = take_cut(rig)
    assert ends(cut)["pod1a"] == 1
    assert rig.holds.count("1") == 0
    assert {worker.state for worker in cut.parts[0].part.workers} <= {"DEGRADED", "BLIND"}


@pytest.mark.slow
def test_shard_that_is_gone_is_one_clear_error_and_nothing_stays_held(rig: CutRig) -> None:
    rig.shards.shards[1].close()
    with pytest.raises(ClusterError, match=r"^shard 1: expected its content, "):
        take_cut(rig, CutSettings(request_s_max=0.5))
    assert not any(one.outbox.release(7) for one in rig.sessions.values())
    for shard in (0, 2):
        wait_until(lambda at=shard: len(rig.shards.shards[at].service.exports) == 0)  # type: ignore[misc]


def test_shard_that_is_being_filled_is_one_clear_error(rig: CutRig) -> None:
    rig.shards.shards[1].service.sessions_live([1, 2, 3])
    rig.refresh()
    with pytest.raises(ClusterError, match="1 is missing or being filled"):
        take_cut(rig)
    assert rig.holds == []


def test_shard_that_is_not_whole_any_more_is_one_clear_error(rig: CutRig) -> None:
    rig.shards.shards[1].service.sessions_live([1, 2, 3])
    with pytest.raises(ClusterError, match="shard 1: expected all content in it"):
        take_cut(rig)
    assert is_free(rig)


def test_session_that_is_new_meanwhile_makes_the_cut_be_taken_again(rig: CutRig) -> None:
    rig.changes_at = 2
    assert ends(take_cut(rig))["pod1a"] == 1
    assert rig.views == 4


def test_subscriber_whose_process_is_another_by_now_is_one_clear_error(rig: CutRig) -> None:
    rig.sessions[1].outbox.session = 77
    with pytest.raises(TornError, match="subscriber 1: expected session 1 to be held, it is over"):
        take_cut(rig)
    assert is_free(rig)


@pytest.mark.slow
def test_subscriber_whose_shard_does_not_answer_is_one_clear_error(rig: CutRig) -> None:
    rig.shards.shards[2].server.close()
    rig.sessions[1].tell()
    with pytest.raises(
        ClusterError, match=r"subscriber 1: expected a hold within 0\.4 s, it waits for answers of 1"
    ):
        take_cut(rig, CutSettings(hold_s_max=0.5))


def test_cluster_that_changes_again_and_again_is_one_clear_error(rig: CutRig) -> None:
    rig.changes_always = True
    with pytest.raises(TornError, match="expected sessions"):
        take_cut(rig)
    assert is_free(rig)


def test_cut_that_is_ended_leaves_nothing_at_the_shards(rig: CutRig) -> None:
    cut = take_cut(rig)
    shard = rig.shards.shards[0].service
    assert len(shard.exports) == 1
    cut.end()
    wait_until(lambda: len(shard.exports) == 0)
