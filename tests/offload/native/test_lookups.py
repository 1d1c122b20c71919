"""What lookups are answered with, beside a model and by hand."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvatlas.index.errors import InputError
from kvatlas.offload._native import Catalogue, Lookups
from tests.models.catalogue import ABSENT, ASKED, PRESENT, UNKNOWN, CatalogueModel

pytestmark = pytest.mark.native

KEY_BYTES = 12
KEYS = [bytes([number]) * 8 + number.to_bytes(4, "big") for number in range(8)]
keys = st.sampled_from(KEYS)
FOREIGN = b"short"
COUNTED = ("present", "absent", "asked", "down", "foreign")
NAMES = {PRESENT: "present", ABSENT: "absent", ASKED: "asked"}


class LookupsModel:
    """In Python, over the catalogue's model."""

    def __init__(self, catalogue: CatalogueModel) -> None:
        self.catalogue, self.counts = catalogue, Counter[str]()
        self.is_down = False
        self.trial_key: bytes | None = None

    def look_up(self, key: bytes, now_s: float) -> int:
        if self.is_down:
            self.counts["down"] += 1
            if len(key) == KEY_BYTES:
                self.trial_key = key
            return ABSENT
        if len(key) != KEY_BYTES:
            self.counts["foreign"] += 1
            return ABSENT
        state = self.catalogue.find(key, now_s)
        has_room = state != UNKNOWN or self.catalogue.ask(key)
        self.counts[NAMES[ASKED if state == UNKNOWN else state]] += 1
        return (ASKED if has_room else ABSENT) if state == UNKNOWN else state


class LookupsMachine(RuleBasedStateMachine):
    """Native and model, told and asked the same."""

    @initialize(entries_max=st.integers(1, 5))
    def begin(self, entries_max: int) -> None:
        self.catalogue, self.model = Catalogue(entries_max, KEY_BYTES, 5.0), CatalogueModel(entries_max, 5.0)
        self.native, self.lookups = Lookups(self.catalogue), LookupsModel(self.model)
        self.now_s = 0.0

    @rule(key=keys | st.just(FOREIGN))
    def look_up(self, key: bytes) -> None:
        assert self.native.look_up(key, self.now_s) == self.lookups.look_up(key, self.now_s)

    @rule(is_down=st.booleans())
    def goes_down_or_up(self, is_down: bool) -> None:
        self.native.is_down = self.lookups.is_down = is_down
        assert self.native.is_down == is_down

    @rule(key=keys | st.none())
    def set_trial_key(self, key: bytes | None) -> None:
        self.native.trial_key = self.lookups.trial_key = key

    @rule(most=st.integers(0, 5))
    def take_asked(self, most: int) -> None:
        assert self.catalogue.take_asked(most) == b"".join(self.model.take_asked(most))

    @rule(probed=st.lists(st.tuples(keys, st.sampled_from([0, 2, 4])), max_size=6))
    def probe_ends(self, probed: list[tuple[bytes, int]]) -> None:
        outcomes = bytes(outcome for _, outcome in probed)
        self.catalogue.answer(b"".join(key for key, _ in probed), outcomes, self.now_s)
        for key, outcome in probed:
            self.model.set(key, ABSENT if outcome else PRESENT, self.now_s)

    @rule(some=st.lists(keys | st.just(FOREIGN), max_size=5))
    def present_of(self, some: list[bytes]) -> None:
        expected = [key for key in some if self.model.find(key, self.now_s) == PRESENT]
        assert self.catalogue.present_of(some, self.now_s) == expected

    @rule(passed_s=st.sampled_from([0.5, 2.0, 5.0]))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s

    @invariant()
    def both_know_and_count_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        counts = self.native.counts
        assert {name: getattr(counts, name) for name in COUNTED} == {
            name: self.lookups.counts[name] for name in COUNTED
        }
        assert self.native.trial_key == self.lookups.trial_key
        statistics = self.catalogue.statistics()
        assert (statistics.present, statistics.absent) == (self.model.n_in(PRESENT), self.model.n_in(ABSENT))
        assert (statistics.asked, statistics.waiting) == (self.model.n_in(ASKED), len(self.model.waiting))
        for name in ("evicted", "expired", "refused"):
            assert getattr(statistics, name) == self.model.counts[name]


TestLookupsBesideModel = LookupsMachine.TestCase
TestLookupsBesideModel.settings = settings(stateful_step_count=80)


def test_an_answering_function_says_what_it_was_given_by_the_monotonic_clock() -> None:
    catalogue = Catalogue(8, KEY_BYTES, 60.0)
    lookups = Lookups(catalogue)
    hit, miss, retry = object(), object(), object()
    answer = lookups.answering(present=hit, absent=miss, asked=retry)
    assert answer(KEYS[0], "context") is retry
    catalogue.answer(catalogue.take_asked(9), b"\0", 0.0)
    assert answer(KEYS[0], None) is hit
    now_s = time.monotonic()
    catalogue.set(KEYS[1], ABSENT, now_s)
    catalogue.set(KEYS[2], ABSENT, now_s - 60.0)
    assert answer(KEYS[1], None) is miss and answer(KEYS[2], None) is retry
    assert answer(FOREIGN, None) is miss
    lookups.is_down = True
    assert answer(KEYS[0], None) is miss and lookups.trial_key == KEYS[0]


def test_an_answering_function_outlives_the_names_of_what_it_asks() -> None:
    answer = Lookups(Catalogue(8, KEY_BYTES, 60.0)).answering(present=1, absent=2, asked=3)
    assert [answer(key, None) for key in KEYS] == [3] * 8


def test_bad_arguments_say_what_was_expected() -> None:
    catalogue = Catalogue(4, KEY_BYTES, 5.0)
    lookups = Lookups(catalogue)
    answer = lookups.answering(present=1, absent=2, asked=3)
    with pytest.raises(InputError, match="key: expected bytes, got str"):
        answer("text", None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="key: expected bytes, got list"):
        lookups.look_up([], 0.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="trial_key: expected bytes or None, got int"):
        lookups.trial_key = 3  # type: ignore[assignment]
    with pytest.raises(InputError, match="outcomes: expected 2 bytes, got 1"):
        catalogue.answer(KEYS[0] + KEYS[1], b"\0", 0.0)
    with pytest.raises(InputError, match="keys: expected bytes, got int"):
        catalogue.present_of([3], 0.0)  # type: ignore[list-item]
    assert catalogue.statistics().asked == 0
