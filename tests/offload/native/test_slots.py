"""Slots of pinned memory, beside a model and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvatlas.index.errors import InputError
from kvatlas.offload._native import Slots
from tests.models.slots import ABSENT, FILLING, SlotModel

pytestmark = pytest.mark.native

KEY_BYTES = 20
KEYS = [bytes([number]) * 16 + number.to_bytes(4, "big") for number in range(10)]
some_keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=5)


def slots_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


class SlotMachine(RuleBasedStateMachine):
    """Native and model, told and asked the same."""

    @initialize(n_slots=st.integers(1, 6))
    def begin(self, n_slots: int) -> None:
        self.native, self.model = Slots(n_slots, KEY_BYTES), SlotModel(n_slots)

    @rule(keys=some_keys, at_once=st.booleans())
    def fill(self, keys: list[bytes], at_once: bool) -> None:
        wanted, free = self.model.wanted(keys), self.model.free()
        result = self.native.fill(b"".join(keys))
        if wanted is None:
            assert result is None
            self.model.counts["refused"] += 1
            return
        assert result is not None
        numbers, evicted = result
        taken = {key: int(slot) for key, slot in zip(keys, numbers, strict=True) if slot >= 0}
        assert (list(taken), evicted) == (wanted[0], b"".join(wanted[1]))
        may_be_taken = free | {self.model.ready[key] for key in wanted[1]}
        assert len(set(taken.values())) == len(taken) and may_be_taken.issuperset(taken.values())
        self.model.filled(keys, taken, wanted[1])
        if at_once:
            self.native.ready(slots_of(*taken.values()))
            for key in taken:
                self.model.make_ready(key)

    @precondition(lambda self: self.model.filling)
    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.model.filling)), unique=True))
        self.native.ready(slots_of(*(self.model.filling[key] for key in keys)))
        for key in keys:
            self.model.make_ready(key)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        held = sorted([*self.model.filling, *self.model.idle()])
        keys = data.draw(st.lists(st.sampled_from(held), unique=True)) if held else []
        self.native.drop(slots_of(*({**self.model.filling, **self.model.ready}[key] for key in keys)))
        for key in keys:
            self.model.drop(key)

    @rule(keys=some_keys)
    def pin(self, keys: list[bytes]) -> None:
        assert self.native.pin(b"".join(keys)).tolist() == [self.model.pin(key) for key in keys]

    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        pinned = sorted(self.model.pins.elements())
        if pinned:
            keys = data.draw(st.lists(st.sampled_from(sorted(set(pinned))), unique=True))
            self.native.unpin(b"".join(keys))
            for key in keys:
                self.model.unpin(key)

    @rule(keys=some_keys)
    def unpin_too_much(self, keys: list[bytes]) -> None:
        if any(keys.count(key) > self.model.pins[key] for key in keys):
            with pytest.raises(InputError, match=r"keys\[\d\]: expected a key with a pin"):
                self.native.unpin(b"".join(keys))

    @rule(keys=some_keys)
    def touch(self, keys: list[bytes]) -> None:
        self.native.touch(b"".join(keys))
        for key in keys:
            self.model.touch(key)

    @rule()
    def clear(self) -> None:
        self.native.clear()
        self.model.clear()

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        assert [self.native.find(key) for key in KEYS] == [self.model.find(key) for key in KEYS]
        native, model = self.native.statistics(), self.model
        assert (native.slots, native.free) == (model.n_slots, len(model.free()))
        assert (native.filling, native.ready) == (len(model.filling), len(model.ready))
        assert native.pinned == len(model.ready) - len(model.idle())
        for name in ("filled", "evicted", "dropped", "refused"):
            assert getattr(native, name) == model.counts[name]


TestSlotsBesideModel = pytest.mark.slow(SlotMachine.TestCase)
TestSlotsBesideModel.settings = settings(stateful_step_count=60)


def filled(slots: Slots, keys: list[bytes]) -> np.ndarray:
    result = slots.fill(b"".join(keys))
    assert result is not None
    return result[0]


def test_a_key_is_absent_then_filling_then_in_its_slot() -> None:
    slots = Slots(4, KEY_BYTES)
    assert slots.find(KEYS[0]) == Slots.ABSENT == ABSENT
    taken = filled(slots, KEYS[:1])
    assert taken.dtype == np.int32 and slots.find(KEYS[0]) == Slots.FILLING == FILLING
    slots.ready(taken)
    assert slots.find(KEYS[0]) == taken[0]


def test_keys_of_a_fill_that_are_there_already_are_not_evicted_by_it() -> None:
    slots = Slots(2, KEY_BYTES)
    slots.ready(filled(slots, KEYS[:2]))
    result = slots.fill(KEYS[0] + KEYS[5])  # KEYS[0] is the least recently used
    assert result is not None and result[1] == KEYS[1]
    assert result[0][0] == -1 and slots.find(KEYS[0]) >= 0


def test_a_fill_without_room_takes_and_evicts_nothing() -> None:
    slots = Slots(3, KEY_BYTES)
    slots.ready(filled(slots, KEYS[:3]))
    slots.pin(KEYS[0] + KEYS[1])
    assert slots.fill(KEYS[5] + KEYS[6]) is None
    assert slots.find(KEYS[2]) >= 0 and slots.statistics().refused == 1


def test_what_is_not_so_is_refused_and_nothing_changes() -> None:
    slots = Slots(4, KEY_BYTES)
    filling = filled(slots, KEYS[:2])
    slots.ready(filling[:1])
    slots.pin(KEYS[0])
    before = slots.statistics()
    for numbers, reason in [
        ([int(filling[1]), 4], "4, out of range"),
        ([int(filling[1]), -1], "-1, out of range"),
        ([int(filling[1]), int(filling[0])], "not in that state"),
        ([int(filling[1]), 3], "3, free"),
    ]:
        with pytest.raises(InputError, match=reason):
            slots.ready(slots_of(*numbers))
    for numbers, reason in [
        ([int(filling[1]), int(filling[0])], "without pins"),
        ([int(filling[1])] * 2, "each once"),
        ([int(filling[1]), 3], "3, free"),
    ]:
        with pytest.raises(InputError, match=reason):
            slots.drop(slots_of(*numbers))
    after = slots.statistics()
    assert (after.filling, after.ready, after.dropped) == (before.filling, before.ready, 0) == (1, 1, 0)


def test_bad_arguments_say_what_was_expected() -> None:
    slots = Slots(4, KEY_BYTES)
    with pytest.raises(InputError, match="n_slots: expected 1 to"):
        Slots(0, KEY_BYTES)
    with pytest.raises(InputError, match="key_bytes: expected 1 to 1024, got -1"):
        Slots(1, -1)
    with pytest.raises(InputError, match="key: expected 20 bytes, got 3"):
        slots.find(b"abc")
    with pytest.raises(InputError, match="keys: expected a multiple of 20 bytes, got 21"):
        slots.fill(bytes(21))
    with pytest.raises(InputError, match="slots: expected one dimension of int32, got 1 of format 'l'"):
        slots.ready(np.array([1], np.int64))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="slots: expected one dimension of int32, got 2"):
        slots.ready(np.zeros((1, 1), np.int32))
    with pytest.raises(InputError, match="slots: expected a contiguous int32 array, got list"):
        slots.drop([1])  # type: ignore[arg-type]
