"""An embedded atlas asked with texts and chats: the same answers as with their token ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kvatlas import (
    Atlas,
    AtlasConfig,
    Chat,
    InputError,
    Media,
    ModelConfig,
    TemplateError,
    TokenizeConfig,
    TokenizerError,
    Tokenizers,
)
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.tokenize.service.small_model import write_small_model

MODEL = "small"
CHAT = [
    {"role": "system", "content": "You know where every block lives. " * 4},
    {"role": "user", "content": "Where does the first one live? " * 4},
]
TURN = [
    {"role": "assistant", "content": "On the second pod. " * 4},
    {"role": "user", "content": "And the next?"},
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizers]:
    folder = write_small_model(tmp_path_factory.mktemp("models") / MODEL)
    made = Tokenizers(TokenizeConfig(models={MODEL: str(folder)}))
    yield made
    made.close()


@pytest.fixture
def atlas(tokenizers: Tokenizers) -> Iterator[Atlas]:
    """It follows two servers: `pod-a` has served the chat, `pod-b` a text of its own."""
    made = Atlas(AtlasConfig(models={MODEL: ModelConfig(block_size_tokens=16)}), tokenizers=tokenizers)
    chat = tokenizers.encode_chat(MODEL, Chat(messages=CHAT)).token_ids.tolist()
    text = tokenizers.encode(MODEL, "once upon a time " * 8).token_ids.tolist()
    for pod, prompt in (("pod-a", chat), ("pod-b", text)):
        sent: list[bytes] = []
        SimulatedServer(pod, MODEL, block_size=16, publish=sent.append).serve(prompt, 1)
        for seq, payload in enumerate(sent):
            made.ingest(f"kv@{pod}@{MODEL}".encode(), seq, payload)
    yield made
    made.close()


def test_a_chat_scores_as_its_token_ids_do(atlas: Atlas, tokenizers: Tokenizers) -> None:
    messages = [*CHAT, *TURN]
    ids = tokenizers.encode_chat(MODEL, Chat(messages=messages)).token_ids
    scores = atlas.score(messages=messages, model=MODEL)
    assert dict(scores) == dict(atlas.score(ids, model=MODEL))
    assert dict(scores)["pod-a"] > 0


def test_the_next_turn_reuses_all_full_blocks_of_the_turns_before(
    atlas: Atlas, tokenizers: Tokenizers
) -> None:
    before = tokenizers.encode_chat(MODEL, Chat(messages=CHAT, add_generation_prompt=False)).token_ids
    match = atlas.score(messages=[*CHAT, *TURN], model=MODEL).matches[0]
    assert match.cached_tokens >= len(before) // 16 * 16


def test_a_text_scores_as_its_token_ids_do(atlas: Atlas, tokenizers: Tokenizers) -> None:
    text = "once upon a time " * 8 + "there was a pod"
    ids = tokenizers.encode(MODEL, text).token_ids
    assert dict(atlas.score(prompt=text, model=MODEL)) == dict(atlas.score(ids, model=MODEL)) != {}


def test_a_chat_with_tools_is_another_prompt(atlas: Atlas) -> None:
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    with_tools = atlas.score(messages=Chat(messages=CHAT, tools=tools), model=MODEL)
    assert dict(with_tools) != dict(atlas.score(messages=Chat(messages=CHAT), model=MODEL))


def test_explain_takes_chats_too(atlas: Atlas) -> None:
    assert "pod-a" in {worker.pod for worker in atlas.explain(messages=CHAT, model=MODEL).workers}


def test_features_of_the_caller_stand_over_those_of_the_chat(atlas: Atlas, tokenizers: Tokenizers) -> None:
    ids = tokenizers.encode(MODEL, "once upon a time " * 8).token_ids
    asked: dict[str, Any] = {"model": MODEL, "features": [("image", 0, 16)]}
    by_text = atlas.score(prompt="once upon a time " * 8, **asked)
    assert dict(by_text) == dict(atlas.score(ids, **asked))
    assert dict(by_text) != dict(atlas.score(ids, model=MODEL))


@pytest.mark.parametrize(
    "given",
    [{}, {"prompt": "a", "messages": CHAT}, {"token_ids": [1], "prompt": "a"}],
    ids=["nothing", "a text and a chat", "ids and a text"],
)
def test_anything_but_one_of_ids_text_and_chat_is_refused(atlas: Atlas, given: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected one of token_ids, prompt and messages, got"):
        atlas.score(model=MODEL, **given)  # type: ignore[arg-type]


def test_an_atlas_without_tokenizers_says_what_it_needs() -> None:
    atlas = Atlas()
    with pytest.raises(InputError, match=r"prompt: expected token_ids, or tokenizers"):
        atlas.score(prompt="a", model=MODEL)
    atlas.close()


def test_errors_of_tokenizing_reach_the_caller_and_leave_the_atlas_answering(atlas: Atlas) -> None:
    with pytest.raises(TokenizerError, match="other/model"):
        atlas.score(prompt="a", model="other/model")
    with pytest.raises(TemplateError, match="no such role here"):
        atlas.score(messages=[{"role": "forbidden", "content": "a"}], model=MODEL)
    with pytest.raises(InputError, match="media"):
        atlas.score(messages=Chat(messages=CHAT, media=[Media(identifier="x", n_tokens=4)]), model=MODEL)
    assert dict(atlas.score(messages=CHAT, model=MODEL))
