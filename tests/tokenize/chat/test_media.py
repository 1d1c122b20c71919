"""Placeholders of media become as many tokens as the server makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.tokenize.chat.chat import Media
from kvatlas.tokenize.chat.media import MEDIA_TOKENS_MAX, expand, placeholder_ids


def _ids(*ids: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(ids, dtype=np.uint32)


def test_each_item_is_repeated_at_its_place() -> None:
    media = [
        Media(identifier="a", n_tokens=3),
        Media(identifier="b", n_tokens=1),
        Media(identifier="c", n_tokens=2),
    ]
    ids, features = expand(_ids(1, 7, 2, 8, 7), (7, 8), media)
    assert ids.tolist() == [1, 7, 7, 7, 2, 8, 7, 7] and ids.dtype == np.uint32
    assert features == (("a", 1, 3), ("b", 5, 1), ("c", 6, 2))


@given(st.lists(st.integers(0, 9)), st.data())
def test_features_name_exactly_the_placeholders(given_ids: list[int], data: st.DataObject) -> None:
    n_items = sum(token in (7, 8) for token in given_ids)
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=n_items, max_size=n_items))
    media = [Media(identifier=str(index), n_tokens=length) for index, length in enumerate(lengths)]
    ids, features = expand(_ids(*given_ids), (7, 8), media)
    collapsed, covered = [], set[int]()
    for _, offset, length in features:
        assert len(set(ids[offset : offset + length].tolist())) == 1
        covered.update(range(offset + 1, offset + length))
    collapsed = [token for index, token in enumerate(ids.tolist()) if index not in covered]
    assert collapsed == given_ids and [length for _, _, length in features] == lengths


def test_no_media_and_no_placeholders_change_nothing() -> None:
    ids, features = expand(_ids(1, 2), (), ())
    assert ids.tolist() == [1, 2] and features == ()


@pytest.mark.parametrize("n_items", [0, 2])
def test_a_wrong_number_of_items_is_refused(n_items: int) -> None:
    with pytest.raises(InputError, match=f"^media: expected 1 items.* got {n_items}"):
        expand(_ids(1, 7), (7,), [Media(identifier="a", n_tokens=1)] * n_items)


@pytest.mark.parametrize("n_tokens", [0, -1, MEDIA_TOKENS_MAX, 1.5])
def test_an_item_of_no_or_too_many_tokens_is_refused(n_tokens: Any) -> None:
    media = [Media(identifier="a", n_tokens=2), Media(identifier="b", n_tokens=n_tokens)]
    with pytest.raises(InputError, match=rf"^media\[1\]\.n_tokens: expected 1 or more, .* got {n_tokens}$"):
        expand(_ids(7, 7), (7,), media)


def test_placeholders_are_known_of_models_that_repeat_them() -> None:
    config = {"image_token_id": 7, "video_token_id": 8, "image_token_index": 9}
    assert placeholder_ids({**config, "model_type": "qwen2_5_vl"}) == (7, 8)
    assert placeholder_ids({**config, "model_type": "qwen3_vl"}) == (7,)
    assert placeholder_ids({**config, "model_type": "gemma3"}) == ()
    assert placeholder_ids({"model_type": "qwen2_vl", "image_token_id": "7", "video_token_id": -1}) == ()
    assert placeholder_ids({"model_type": "qwen2_vl", "image_token_id": [7], "video_token_id": 8}) == (8,)
