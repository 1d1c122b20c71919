"""Many prompts in one buffer, and their scores in few objects."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas import Atlas, AtlasConfig, InputError
from kvatlas.index.prompts import count_tokens, split_prompts
from tests.ingest.plain_batches import batch, stored

PROMPT = list(range(16 * 40))


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    made = Atlas(AtlasConfig(shards=2))
    made.ingest(b"kv@a@m", 0, batch(stored(list(range(1, 41)), PROMPT)))
    made.ingest(b"kv@b@m", 0, batch(stored(list(range(1, 21)), PROMPT[:320])))
    return made


@given(st.data())
def test_many_are_scored_as_one_by_one(atlas: Atlas, data: st.DataObject) -> None:
    ends = data.draw(st.lists(st.integers(0, len(PROMPT)), max_size=6))
    prompts = [PROMPT[:end] for end in ends]
    offsets = np.cumsum([0, *ends])
    flat = np.array([token for prompt in prompts for token in prompt], np.uint32)
    forms = [
        atlas.score_many(prompts, model="m"),
        atlas.score_many([np.array(p, np.uint32).tobytes() for p in prompts], model="m"),
        atlas.score_many(flat, model="m", offsets=offsets),
        atlas.score_many(flat.tobytes(), model="m", offsets=offsets.tolist()),
    ]
    forms += [pickle.loads(pickle.dumps(form)) for form in forms]
    expected = [atlas.score(prompt, model="m") for prompt in prompts]
    for form in forms:
        assert len(form) == len(expected)
        assert form.is_whole
        for found, one in zip(form, expected, strict=True):
            assert (found.matches, dict(found)) == (one.matches, dict(one))
            assert (found.prompt_blocks, found.slots_probed) == (one.prompt_blocks, one.slots_probed)


def test_a_batch_is_a_sequence(atlas: Atlas) -> None:
    found = atlas.score_many([PROMPT, PROMPT[:160], []], model="m")
    assert [dict(one) for one in found[:2]] == [dict(found[0]), dict(found[1])]
    assert dict(found[-1]) == {}
    assert dict(found[-2])["a"] == 10.0 - 1
    with pytest.raises(IndexError, match="prompt 3 of 3"):
        found[3]


def test_what_is_sent_grows_by_what_matched_and_not_by_the_fleet() -> None:
    atlas = Atlas()
    for i in range(200):
        atlas.ingest(
            f"kv@pod-{i}@m".encode(), 0, batch(stored([1], PROMPT[:16] if i == 7 else PROMPT[16:32]))
        )
    sent = pickle.dumps(atlas.score(PROMPT[:33], model="m"))
    assert len(sent) < 400
    assert len(pickle.dumps(atlas.score_many([PROMPT[:33]] * 10, model="m"))) < 3000
    assert list(pickle.loads(sent)) == ["pod-7"]
    atlas.close()


@pytest.mark.parametrize(
    ("prompts", "offsets", "says"),
    [
        ([1, 2, 3], None, "a list of prompts"),
        (np.arange(3, dtype=np.uint32), None, "a list of prompts"),
        (np.arange(3, dtype=np.int64), [0, 3], "flat buffer of uint32"),
        (b"123", [0, 0], "flat buffer of uint32"),
        (np.arange(3, dtype=np.uint32), [0, 4], "at most 3 tokens"),
        (np.arange(3, dtype=np.uint32), [2, 1, 3], "falling"),
        (np.arange(3, dtype=np.uint32), [-1, 2], "rise from 0"),
        (np.arange(3, dtype=np.uint32), [], "n_prompts"),
        (np.arange(3, dtype=np.uint32), [0.0, 3.0], "n_prompts"),
    ],
)
def test_prompts_that_are_none_are_refused(prompts: object, offsets: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        split_prompts(prompts, offsets)  # type: ignore[arg-type]


def test_tokens_are_counted_in_every_form() -> None:
    tokens = np.arange(5, dtype=np.uint32)
    assert [count_tokens(form) for form in (tokens, tokens.tobytes(), tokens.tolist(), tokens.data)] == [
        5
    ] * 4
