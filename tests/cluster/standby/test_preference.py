"""Which of two clusters is asked, by how well each can be read."""

from __future__ import annotations

import pytest

from kvatlas.actors.reading.reader_status import ReaderStatus, ShardReading
from kvatlas.cluster.standby.preference import Grade, Preference, differences, grade_of
from kvatlas.index.view import WorkerView


def shard(how: str = "attached", is_whole: bool | None = True, says: str = "") -> ShardReading:
    return ShardReading(shard=0, how=how, replicas=(1,), is_whole=is_whole, says=says)  # type: ignore[arg-type]


def status(*shards: ShardReading, is_trusted: bool = True) -> ReaderStatus:
    return ReaderStatus(
        cluster="c",
        view_version=1,
        view_age_s=0.1,
        is_trusted=is_trusted,
        says="",
        layout=1,
        shards=shards or (shard(),),
        sessions=(1,),
        n_workers=1,
        counts={},
    )


def workers(*states: str) -> tuple[WorkerView, ...]:
    return tuple(
        WorkerView(number=n, pod=f"p{n}", rank=0, model="m", state=state) for n, state in enumerate(states)
    )


@pytest.mark.parametrize(
    ("seen", "views", "grade"),
    [
        (status(), workers("EXACT"), Grade.GOOD),
        (status(), (), Grade.LACKING),
        (status(), workers("EXACT", "PARTIAL", "DEGRADED"), Grade.GOOD),
        (status(), workers("EXACT", "DEGRADED", "BLIND"), Grade.LACKING),
        (status(shard("asked", None)), workers("PARTIAL"), Grade.GOOD),
        (status(shard(), shard("missing", None)), workers("EXACT"), Grade.LACKING),
        (status(shard(is_whole=False)), workers("EXACT"), Grade.LACKING),
        (status(shard("asked", None, "too slow")), workers("EXACT"), Grade.LACKING),
        (status(is_trusted=False), workers("EXACT"), Grade.DISTRUSTED),
    ],
)
def test_a_cluster_is_as_good_as_what_it_lacks(
    seen: ReaderStatus, views: tuple[WorkerView, ...], grade: Grade
) -> None:
    assert grade_of(seen, views) is grade


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("both", list(Grade))
def test_the_first_is_asked_where_both_are_as_good(both: Grade) -> None:
    preference = Preference(10.0, Clock())
    assert preference.judge(both, both) == 0


def test_the_second_is_asked_at_once_where_it_is_better() -> None:
    preference = Preference(10.0, Clock())
    assert preference.judge(Grade.LACKING, Grade.LACKING) == 0
    assert preference.judge(Grade.LACKING, Grade.GOOD) == 1
    assert preference.switches == 1


def test_the_first_is_asked_again_when_it_has_been_good_for_long_enough() -> None:
    clock = Clock()
    preference = Preference(10.0, clock)
    preference.judge(Grade.GONE, Grade.GOOD)
    assert preference.judge(Grade.GOOD, Grade.GOOD) == 1
    clock.now_s += 9.0
    assert preference.judge(Grade.LACKING, Grade.GOOD) == 1
    clock.now_s += 9.0
    assert preference.judge(Grade.GOOD, Grade.GOOD) == 1, "the time begins anew with each failure"
    clock.now_s += 10.0
    assert preference.judge(Grade.GOOD, Grade.GOOD) == 0
    assert preference.switches == 2


def test_nobody_waits_for_a_second_that_is_gone() -> None:
    preference = Preference(10.0, Clock())
    preference.judge(Grade.GONE, Grade.GOOD)
    assert preference.judge(Grade.DISTRUSTED, Grade.GONE) == 0


def test_a_first_that_has_come_back_empty_is_not_asked_while_the_second_knows_its_workers() -> None:
    clock = Clock()
    preference = Preference(10.0, clock)
    assert preference.judge(Grade.GONE, Grade.GOOD) == 1
    clock.now_s += 60.0
    assert preference.judge(grade_of(status(), ()), grade_of(status(), workers("EXACT"))) == 1


def test_a_standby_of_other_models_or_block_sizes_is_told() -> None:
    assert differences({"m": 16, "n": 0}, {"m": 16, "n": 32, "o": 8}) == []
    assert differences({}, {"m": 16}) == differences({"m": 16}, {}) == [], "nothing is known yet"
    assert differences({"m": 16, "n": 16}, {"n": 32}) == [
        "it has heard no server of model 'm'",
        "a block of model 'n' is 32 tokens there, not 16",
    ]
