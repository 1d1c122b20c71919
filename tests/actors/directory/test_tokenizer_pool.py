"""Tokenizers as the directory sees them: who is up, who is wanted, who is shown to readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.actors.directory.supervision import heard, wanted_actors
from kvatlas.actors.orders import TokenizerOrders, TokenizerReport
from kvatlas.tokenize.pool.scaling import ScalingLimits
from tests.actors.directory.directory_rig import DirectoryRig

LIMITS = ScalingLimits(count_min=2, count_max=4, grow_s=2.0, shrink_s=60.0)


@pytest.fixture
def rig(tmp_path: Path) -> DirectoryRig:
    rig = DirectoryRig(tmp_path, tokenizers=LIMITS, tokenizer=b"settings")
    for shard in rig.shards():
        shard.report()
    return rig


def report(rig: DirectoryRig, number: int, **said: float) -> TokenizerOrders:
    told = TokenizerReport(number=number, process=1, node_id="node1", threads=4, **said)  # type: ignore[arg-type]
    return rig.service.report_tokenizer(told)


def live(rig: DirectoryRig, seconds: float, *numbers: int, **said: float) -> None:
    """These report all the time."""
    end_s = rig.now_s + seconds
    while rig.now_s < end_s:
        for number in numbers:
            report(rig, number, **said)
        rig.wait(0.5)


def tokenizers(rig: DirectoryRig) -> list[str]:
    return [name for name in wanted_actors(rig.service) if "/tokenizer/" in name]


def test_so_many_are_wanted_and_those_that_report_are_shown(rig: DirectoryRig) -> None:
    assert tokenizers(rig) == ["c/tokenizer/0", "c/tokenizer/1"]
    assert rig.service.view().tokenizers == ()
    before = rig.service.version
    assert report(rig, 1) == TokenizerOrders(goes=False)
    rig.wait(0.5)
    assert rig.service.view().tokenizers == (1,)
    assert rig.service.version > before
    assert heard(rig.service)["c/tokenizer/1"] == rig.now_s - 0.5
    assert rig.service.reader_secrets().tokenizer == b"settings"


def test_one_that_is_silent_is_shown_no_more(rig: DirectoryRig) -> None:
    live(rig, 2, 0, 1)
    live(rig, 4, 0)
    assert rig.service.view().tokenizers == (0,)
    assert rig.service.pool.counts["tokenizers_silent"] == 1
    # Who supervises goes on from when it was heard, not from when it began.
    assert rig.now_s - 10 < heard(rig.service)["c/tokenizer/1"] < rig.now_s - 3
    report(rig, 1)
    rig.wait(0.5)
    assert rig.service.view().tokenizers == (0, 1)


def test_a_directory_that_stood_still_does_not_hold_it_against_them(rig: DirectoryRig) -> None:
    live(rig, 2, 0, 1)
    rig.now_s += 60
    rig.wait(0.5)
    assert rig.service.view().tokenizers == (0, 1)


def test_the_pool_grows_under_load_and_dismisses_the_last_when_idle(rig: DirectoryRig) -> None:
    live(rig, 4, 0, 1, waiting=8, busy_share=1.0)
    assert tokenizers(rig) == ["c/tokenizer/0", "c/tokenizer/1", "c/tokenizer/2"]
    live(rig, 58, 0, 1, 2)
    assert not report(rig, 2).goes
    live(rig, 4, 0, 1, 2)
    assert report(rig, 2).goes
    assert rig.service.view().tokenizers == (0, 1)
    assert tokenizers(rig) == ["c/tokenizer/0", "c/tokenizer/1"]
    live(rig, 600, 0, 1)
    assert len(tokenizers(rig)) == 2
    counts = rig.service.pool.counts
    assert (counts["tokenizers_added"], counts["tokenizers_removed"]) == (1, 1)
    assert counts["tokenizers_dismissed"] >= 1


def test_a_directory_that_was_lost_keeps_those_that_are_there(rig: DirectoryRig) -> None:
    live(rig, 10, 0, 1, 2, 3, waiting=50, busy_share=1.0)
    assert len(tokenizers(rig)) == 4
    rig.lose_directory()
    assert len(tokenizers(rig)) == 2
    assert not report(rig, 3).goes
    assert len(tokenizers(rig)) == 4
    rig.wait(6.0)
    assert report(rig, 4).goes


def test_a_new_directory_adopts_nobody(rig: DirectoryRig) -> None:
    assert report(rig, 3).goes
    assert len(tokenizers(rig)) == 2


def test_all_are_told_to_end_with_the_cluster(rig: DirectoryRig) -> None:
    assert not report(rig, 0).goes
    rig.service.is_going = True
    assert report(rig, 0).goes


def test_a_cluster_without_a_pool_wants_none(tmp_path: Path) -> None:
    rig = DirectoryRig(tmp_path)
    rig.wait(10)
    assert tokenizers(rig) == []
    assert report(rig, 0).goes
