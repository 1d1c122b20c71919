"""Values are taken over as plain JSON types, or refused with their place."""

from __future__ import annotations

import enum
import types
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.messages import plain_values
from kvatlas.tokenize.chat.messages.plain_values import PlainValues

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class _Colour(str, enum.Enum):
    RED = "red"


@given(_JSON)
def test_what_json_gives_is_handed_on_as_it_is(value: Any) -> None:
    assert PlainValues(64).take(value, "$") is value


def test_what_resembles_it_is_converted_and_the_original_kept() -> None:
    class Number(int):
        pass

    given: dict[str, Any] = {
        "a": (1, 2),
        "b": types.MappingProxyType({"c": _Colour.RED}),
        "d": [OrderedDict(e=Number(5))],
        "f": 1.5,
    }
    before = dict(given)
    taken = PlainValues(64).take(given, "$")
    assert taken == {"a": [1, 2], "b": {"c": "red"}, "d": [{"e": 5}], "f": 1.5}
    assert type(taken["b"]["c"]) is str and type(taken["d"][0]) is dict and type(taken["d"][0]["e"]) is int
    assert given == before and given["b"] is before["b"]


def test_string_enumerations_as_keys_become_strings() -> None:
    taken = PlainValues(64).take({_Colour.RED: (1,)}, "$")
    assert taken == {"red": [1]} and [type(key) for key in taken] == [str]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [0, {"b": b"bytes"}]}, "$.tools.a[1].b: expected what JSON can hold, got bytes"),
        ([object()], "$.tools[0]: expected what JSON can hold, got object"),
        ({"a": {1: 2}}, "$.tools.a: expected strings as keys, got int"),
        ({"\ud800": b""}, "$.tools.\\ud800: expected what JSON can hold, got bytes"),
        ({"a": {1, 2}}, "$.tools.a: expected what JSON can hold, got set"),
    ],
)
def test_other_types_are_refused_with_their_place(value: Any, place: str) -> None:
    with pytest.raises(InputError) as caught:
        PlainValues(64).take(value, "$.tools")
    assert str(caught.value) == place


def test_a_value_within_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"self": schema}
    with pytest.raises(InputError, match=r"^\$\.properties\.self\.properties.*at most 64 levels"):
        PlainValues(64).take(schema, "$")


def test_depth_is_bounded() -> None:
    value: Any = "x"
    for _ in range(8):
        value = [value]
    assert PlainValues(8).take(value, "$") is value
    with pytest.raises(InputError, match="at most 7 levels"):
        PlainValues(7).take(value, "$")


def test_depth_beyond_what_python_can_follow_is_refused_too() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    with pytest.raises(InputError, match=r"^\$: expected a value that is nested less deep"):
        PlainValues(1_000_000).take(value, "$")


@pytest.mark.slow
def test_a_small_value_that_unfolds_without_end_is_refused() -> None:
    value: Any = [1]
    for _ in range(60):
        value = [value, value]
    with pytest.raises(InputError, match=f"at most {plain_values.VALUES_MAX} entries"):
        PlainValues(64).take(value, "$")
