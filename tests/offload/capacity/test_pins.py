"""Pins: written, read, removed; one that cannot be read stops all eviction."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.index.errors import InputError, StoreError
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.pins import read_pins, remove_pins, write_pin
from tests.offload.capacity.stores_at_hand import key_of, make_store


@pytest.fixture
def store(tmp_path: Path) -> tuple[ControlFolder, str]:
    return ControlFolder(tmp_path / "store"), make_store(tmp_path / "store").name


def test_keys_are_pinned_in_their_space_alone(store: tuple[ControlFolder, str]) -> None:
    control, space = store
    other = make_store(control.root, "another/model").name
    write_pin(control, space, [key_of(1), key_of(2)], "the system prompt")
    pins = read_pins(control)
    assert pins.is_pinned(space, key_of(1)) and not pins.is_pinned(space, key_of(3))
    assert not pins.is_pinned(other, key_of(1))
    assert (pins.n_keys, pins.spaces) == (2, [])


def test_a_space_is_pinned_with_what_comes_later(store: tuple[ControlFolder, str]) -> None:
    control, space = store
    write_pin(control, space, None)
    assert read_pins(control).is_pinned(space, key_of(99))
    assert remove_pins(control, space, [key_of(99)]) == 0
    assert remove_pins(control, space, None) == 1
    assert not read_pins(control).is_pinned(space, key_of(99))


def test_a_key_is_unpinned_wherever_it_was_pinned(store: tuple[ControlFolder, str]) -> None:
    control, space = store
    write_pin(control, space, [key_of(1), key_of(2)])
    write_pin(control, space, [key_of(1)])
    assert remove_pins(control, space, [key_of(1)]) == 2
    pins = read_pins(control)
    assert (pins.is_pinned(space, key_of(1)), pins.is_pinned(space, key_of(2))) == (False, True)
    assert len(list(control.pins.iterdir())) == 1


def test_the_mark_changes_with_every_pin(store: tuple[ControlFolder, str]) -> None:
    control, space = store
    before = read_pins(control).mark
    write_pin(control, space, [key_of(1)])
    between = read_pins(control).mark
    remove_pins(control, space, None)
    assert len({before, between, read_pins(control).mark}) == 3


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"space": "a", "keys": ["zz"]}', b'{"format": 9, "space": "a", "keys": null}'],
)
def test_a_pin_that_cannot_be_understood_is_an_error(
    store: tuple[ControlFolder, str], content: bytes
) -> None:
    control, _ = store
    control.prepare()
    (control.pins / "broken.pin").write_bytes(content)
    with pytest.raises(StoreError, match="nothing is evicted while it is there"):
        read_pins(control)


@pytest.mark.parametrize("space", ["no-such-space", "../store", ".hidden", ""])
def test_what_is_no_space_cannot_be_pinned(store: tuple[ControlFolder, str], space: str) -> None:
    with pytest.raises(InputError, match=r"^space: expected a folder"):
        write_pin(store[0], space, None)
