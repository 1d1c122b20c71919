"""What is known of a store's keys, beside a model and by hand."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvatlas.index.errors import InputError
from kvatlas.offload._native import Catalogue
from tests.models.catalogue import ABSENT, ASKED, PRESENT, UNKNOWN, CatalogueModel

pytestmark = pytest.mark.native

KEY_BYTES = 12
KEYS = [bytes([number]) * 8 + number.to_bytes(4, "big") for number in range(8)]
keys = st.sampled_from(KEYS)
ABSENT_S = 5.0


class CatalogueMachine(RuleBasedStateMachine):
    """Native and model, told and asked the same."""

    @initialize(entries_max=st.integers(1, 5))
    def begin(self, entries_max: int) -> None:
        self.native = Catalogue(entries_max, KEY_BYTES, ABSENT_S)
        self.model = CatalogueModel(entries_max, ABSENT_S)
        self.now_s = 0.0

    @rule(key=keys)
    def find(self, key: bytes) -> None:
        assert self.native.find(key, self.now_s) == self.model.find(key, self.now_s)

    @rule(key=keys)
    def ask(self, key: bytes) -> None:
        assert self.native.ask(key) == self.model.ask(key)

    @rule(most=st.integers(0, 5))
    def take_asked(self, most: int) -> None:
        assert self.native.take_asked(most) == b"".join(self.model.take_asked(most))

    @rule(some=st.lists(keys, max_size=6), state=st.sampled_from([PRESENT, ABSENT]))
    def set(self, some: list[bytes], state: int) -> None:
        self.native.set(b"".join(some), state, self.now_s)
        for key in some:
            self.model.set(key, state, self.now_s)

    @rule(some=st.lists(keys, max_size=3))
    def forget(self, some: list[bytes]) -> None:
        self.native.forget(b"".join(some))
        for key in some:
            self.model.forget(key)

    @rule(passed_s=st.sampled_from([0.5, 2.0, 5.0]))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s

    @invariant()
    def both_count_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        native, model = self.native.statistics(), self.model
        assert native.entries_max == model.entries_max
        assert (native.present, native.absent) == (model.n_in(PRESENT), model.n_in(ABSENT))
        assert (native.asked, native.waiting) == (model.n_in(ASKED), len(model.waiting))
        for name in ("evicted", "expired", "refused"):
            assert getattr(native, name) == model.counts[name]


TestCatalogueBesideModel = pytest.mark.slow(CatalogueMachine.TestCase)
TestCatalogueBesideModel.settings = settings(stateful_step_count=80)


def test_a_key_is_asked_for_once_and_then_known() -> None:
    catalogue = Catalogue(4, KEY_BYTES, ABSENT_S)
    assert catalogue.find(KEYS[0], 0.0) == Catalogue.UNKNOWN == UNKNOWN
    assert catalogue.ask(KEYS[0]) and catalogue.ask(KEYS[0])
    assert catalogue.find(KEYS[0], 0.0) == Catalogue.ASKED == ASKED
    assert (catalogue.take_asked(9), catalogue.take_asked(9)) == (KEYS[0], b"")
    assert catalogue.ask(KEYS[0]) and catalogue.take_asked(9) == b""  # still being asked
    catalogue.set(KEYS[0], Catalogue.PRESENT, 0.0)
    assert catalogue.find(KEYS[0], 1e9) == PRESENT


def test_an_absent_key_may_be_asked_for_again_when_its_time_is_over() -> None:
    catalogue = Catalogue(4, KEY_BYTES, ABSENT_S)
    catalogue.set(KEYS[0], Catalogue.ABSENT, 10.0)
    assert catalogue.find(KEYS[0], 14.999) == ABSENT
    assert catalogue.find(KEYS[0], 15.0) == UNKNOWN
    assert catalogue.statistics().expired == 1


def test_what_waits_is_never_evicted_and_what_finds_no_room_is_counted() -> None:
    catalogue = Catalogue(2, KEY_BYTES, ABSENT_S)
    assert catalogue.ask(KEYS[0]) and catalogue.ask(KEYS[1]) and not catalogue.ask(KEYS[2])
    catalogue.set(KEYS[3], Catalogue.PRESENT, 0.0)
    assert catalogue.find(KEYS[3], 0.0) == UNKNOWN and catalogue.statistics().refused == 2
    assert catalogue.take_asked(1) == KEYS[0]
    assert catalogue.ask(KEYS[2]) and catalogue.find(KEYS[0], 0.0) == UNKNOWN
    assert catalogue.take_asked(9) == KEYS[1] + KEYS[2]


def test_answers_for_more_keys_than_one_portion_are_all_taken() -> None:
    catalogue = Catalogue(5000, KEY_BYTES, ABSENT_S)
    many = [number.to_bytes(KEY_BYTES, "big") for number in range(5000)]
    catalogue.set(b"".join(many), Catalogue.PRESENT, 0.0)
    assert all(catalogue.find(key, 0.0) == PRESENT for key in many)
    catalogue.forget(b"".join(many[:4999]))
    assert catalogue.statistics().present == 1 and catalogue.find(many[4999], 0.0) == PRESENT


def test_bad_arguments_say_what_was_expected() -> None:
    catalogue = Catalogue(4, KEY_BYTES, ABSENT_S)
    with pytest.raises(InputError, match="entries_max: expected 1 to"):
        Catalogue(0, KEY_BYTES, 1.0)
    with pytest.raises(InputError, match="absent_s: expected 0 or more"):
        Catalogue(1, KEY_BYTES, float("nan"))
    with pytest.raises(InputError, match="state: expected PRESENT or ABSENT, got 3"):
        catalogue.set(KEYS[0], ASKED, 0.0)
    with pytest.raises(InputError, match="key: expected 12 bytes, got 0"):
        catalogue.ask(b"")
    with pytest.raises(InputError, match="keys: expected a multiple of 12 bytes, got 13"):
        catalogue.forget(bytes(13))
