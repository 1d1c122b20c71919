"""Media in a chat: the one token that a template writes for an item becomes as many as the server makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature
from kvatlas.tokenize.chat.chat import Media

_PLACEHOLDER_FIELDS = {
    "kimi_vl": ("media_placeholder_token_id",),
    "qwen2_vl": ("image_token_id", "video_token_id"),
    "qwen2_5_vl": ("image_token_id", "video_token_id"),
    "qwen3_vl": ("image_token_id",),
    "qwen3_vl_moe": ("image_token_id",),
}
"""By model type: fields of `config.json` that name a placeholder token which the server repeats, and does
nothing else with. Others write rows, columns or time stamps between (their pods can be asked)."""

MEDIA_TOKENS_MAX = 1 << 24
"""Of all media of a chat: more than any context holds."""


def placeholder_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The placeholder tokens of a model, from its `config.json`; none where they are more than repeated."""
    fields = _PLACEHOLDER_FIELDS.get(str(config.get("model_type")), ())
    ids = [config.get(field) for field in fields]
    return tuple(token for token in ids if type(token) is int and 0 <= token < 1 << 32)


def expand(
    token_ids: npt.NDArray[np.uint32], placeholder_ids: Collection[int], media: Sequence[Media]
) -> tuple[npt.NDArray[np.uint32], tuple[Feature, ...]]:
    """The ids [n_tokens] with each placeholder repeated, and the media as features with their places.

    `media` in order of appearance. Raises InputError where there are more or fewer placeholders than media,
    or items of less than one token, or more than MEDIA_TOKENS_MAX together.
    """
    places = np.flatnonzero(np.isin(token_ids, np.fromiter(placeholder_ids, dtype=np.uint32)))
    if len(places) != len(media):
        raise InputError(
            f"media: expected {len(places)} items, one for each placeholder token, got {len(media)}"
        )
    repeats = np.ones(len(token_ids), dtype=np.int64)
    features: list[Feature] = []
    n_added = 0
    for index, (place, item) in enumerate(zip(places.tolist(), media, strict=True)):
        if type(item.n_tokens) is not int or not 1 <= item.n_tokens <= MEDIA_TOKENS_MAX - n_added:
            raise InputError(
                f"media[{index}].n_tokens: expected 1 or more, and at most {MEDIA_TOKENS_MAX} of all media, "
                f"got {item.n_tokens!r}"
            )
        repeats[place] = item.n_tokens
        features.append((item.identifier, place + n_added, item.n_tokens))
        n_added += item.n_tokens - 1
    return np.repeat(token_ids, repeats), tuple(features)
