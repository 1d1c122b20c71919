"""Where conversations go."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kvatlas.tokenize.pool.affinity import conversation_of, ranked

SYSTEM = {"role": "system", "content": "You are kind. " * 500}


def turns(first: str, count: int) -> list[dict[str, Any]]:
    more = [{"role": ("assistant", "user")[n % 2], "content": f"turn {n}"} for n in range(count)]
    return [SYSTEM, {"role": "user", "content": first}, *more]


def test_every_turn_of_a_conversation_is_the_same_and_conversations_differ() -> None:
    places = {first: conversation_of(None, turns(first, 0)) for first in ("hello", "hullo", "")}
    assert len(set(places.values())) == 3
    for first, place in places.items():
        assert {conversation_of(None, turns(first, n)) for n in range(12)} == {place}


def test_long_messages_that_differ_at_their_ends_or_length_differ() -> None:
    texts = ["a" * 5000, "a" * 5001, "a" * 4999 + "b", "b" + "a" * 4999]
    assert len({conversation_of(None, [{"role": "user", "content": text}]) for text in texts}) == 4


def test_prompts_that_begin_alike_for_long_are_one_conversation() -> None:
    begin = "x" * 4000
    assert conversation_of(begin + "a", None) == conversation_of(begin + "b", None)
    assert conversation_of("a", None) != conversation_of("b", None)


def test_parts_count_by_their_texts() -> None:
    def of(*parts: object) -> bytes:
        return conversation_of(None, [{"role": "user", "content": list(parts)}])

    image = {"type": "image_url", "image_url": {"url": "data:" + "A" * 100_000}}
    text = {"type": "text", "text": "what is this?"}
    assert of(text, image) == of(text, {"type": "image_url", "image_url": {"url": "other"}})
    assert of(text, image) != of({"type": "text", "text": "what is that?"}, image)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(messages=st.lists(JSON | st.fixed_dictionaries({"role": JSON, "content": JSON}), max_size=5) | JSON)
def test_what_is_malformed_has_a_place_too(messages: Any) -> None:
    assert len(conversation_of(None, messages)) == len(conversation_of("a\ud800", None))


def test_places_are_even_and_few_move_when_one_comes_or_goes() -> None:
    chats = [conversation_of(str(n), None) for n in range(2000)]
    of_five = [ranked(chat, range(5))[0] for chat in chats]
    assert all(320 < count < 480 for count in Counter(of_five).values())
    of_four = [ranked(chat, range(4))[0] for chat in chats]
    moved = [(old, new) for old, new in zip(of_five, of_four, strict=True) if old != new]
    assert {old for old, _ in moved} == {4}
    assert ranked(chats[0], [3, 1, 2]) == ranked(chats[0], [1, 2, 3])
