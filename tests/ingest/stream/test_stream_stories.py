"""Random stories of one stream beside a hostile network: nobody says EXACT and is wrong."""

from __future__ import annotations

import logging

import pytest

from tests.ingest.stream.random_stories import explained, tell_many
from tests.ingest.stream.toy_world import WEIGHTS, tell
from tests.profiles import examples, fresh_seeds

_STORIES = 20_000
_STEPS_MAX = 80


@pytest.mark.slow
def test_whoever_says_exact_is_right_and_all_that_can_heal_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    assert tell_many(tell, fresh_seeds(examples(_STORIES)), WEIGHTS, _STEPS_MAX) == examples(_STORIES)


@pytest.mark.fuzz
def test_fresh_stories_of_a_stream_end_right(fuzz_seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    tell_many(tell, fresh_seeds(int(fuzz_seconds * 500)), WEIGHTS, _STEPS_MAX)


def test_a_story_that_goes_wrong_is_cut_down_to_what_it_needs() -> None:
    def fails(_: int, story: list[tuple[str, int]]) -> None:
        names = [name for name, _ in story]
        assert not ("lose" in names and "restart" in names)

    story = [("publish", 1), ("lose", 2), ("wait", 3), ("restart", 4), ("wait", 5)]
    assert explained(fails, 7, story, 1).endswith("[('lose', 2), ('restart', 4)]")
