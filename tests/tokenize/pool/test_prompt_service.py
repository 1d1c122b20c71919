"""Texts and chats through the service that actors and clients share, over an embedded atlas."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kvatlas import Atlas, AtlasConfig
from kvatlas.index.errors import InputError, OverloadedError, TokenizerError
from kvatlas.index.reading import Asked
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.pool.bounded_work import WorkLimits
from kvatlas.tokenize.pool.own_process import own_process
from kvatlas.tokenize.pool.prompt_service import PromptService, text_of
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.e2e.chat_tokenizer import write_chat_tokenizer

MODEL = "m"
CHAT = [{"role": "user", "content": "which server holds the blocks of this prompt? " * 20}]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TokenizeConfig:
    folder = tmp_path_factory.mktemp("models") / "small"
    write_chat_tokenizer(folder)
    return TokenizeConfig(models={MODEL: str(folder)}, order=("models",))


@pytest.fixture(scope="module")
def tokenizers(config: TokenizeConfig) -> Iterator[Tokenizers]:
    tokenizers = Tokenizers(config)
    yield tokenizers
    tokenizers.close()


class Rig:
    """An atlas that has heard of one server, which has served CHAT."""

    def __init__(self, tokenizers: Tokenizers) -> None:
        self.atlas = Atlas(AtlasConfig(hash_seed="seed"))
        self.ids = tokenizers.encode_chat(MODEL, Chat(messages=CHAT)).token_ids
        server = SimulatedServer("pod", MODEL, publish=self._hear)
        self._topic = server.topic.encode()
        server.serve(self.ids.tolist(), 8)
        self.reader: Any = self.atlas._reader
        self.service = PromptService(tokenizers, lambda: self.reader)

    def _hear(self, payload: bytes) -> None:
        self.atlas.ingest(self._topic, 0, payload)


def test_exactly_a_prompt_or_a_chat_is_a_text() -> None:
    assert text_of("hello", None) == "hello"
    chat = Chat(messages=CHAT)
    assert text_of(None, chat) is chat
    assert text_of(None, CHAT) == chat
    assert text_of(None, {"messages": CHAT, "add_generation_prompt": False}) == Chat(
        messages=CHAT, add_generation_prompt=False
    )
    with pytest.raises(InputError, match="prompt: expected a str, got bytes"):
        text_of(b"hello", None)  # type: ignore[arg-type]


def test_scores_keys_and_explanations_are_those_of_the_token_ids(tokenizers: Tokenizers) -> None:
    rig = Rig(tokenizers)
    chat = Chat(messages=CHAT)
    expected = rig.atlas.score(rig.ids, model=MODEL)
    assert expected["pod"] > 0
    assert rig.service.score(chat, Asked(model=MODEL)).matches == expected.matches
    assert rig.service.explain(chat, {"model": MODEL}) == rig.atlas.explain(rig.ids, model=MODEL)
    keys = rig.service.block_keys(chat, Asked(model=MODEL))
    assert len(keys) == len(rig.ids) // 16
    salted = rig.service.block_keys(chat, Asked(model=MODEL, cache_salt="s"))
    assert not np.array_equal(keys, salted)


def test_the_callers_features_stand_in_place_of_the_chats(tokenizers: Tokenizers) -> None:
    rig = Rig(tokenizers)
    chat = Chat(messages=CHAT)
    plain = rig.service.block_keys(chat, Asked(model=MODEL))
    with_image = rig.service.block_keys(chat, Asked(model=MODEL, features=[("image", 3, 20)]))
    assert not np.array_equal(plain, with_image)
    assert np.array_equal(plain, rig.service.block_keys(chat, Asked(model=MODEL, features=[])))


def test_keys_of_a_model_that_nobody_has_announced_are_refused(
    tokenizers: Tokenizers, config: TokenizeConfig
) -> None:
    reader: Any = Atlas()._reader
    service = PromptService(tokenizers, lambda: reader)
    assert service.score("hello", Asked(model=MODEL)).prompt_blocks == 0
    with pytest.raises(InputError, match="announced, got 'm'"):
        service.block_keys("hello", Asked(model=MODEL))


@pytest.mark.slow
def test_a_process_has_one_set_of_tokenizers_for_each_configuration(config: TokenizeConfig) -> None:
    limits = WorkLimits()
    first, second = own_process(config, limits), own_process(config, limits)
    assert first is second
    other: Any = own_process(TokenizeConfig(order=("models",)), limits)
    assert other is not first
    gone, work, tokenizers = weakref.ref(first), first.work, first.tokenizers
    assert work.submit(lambda: tokenizers.encode(MODEL, "hello")).result(30).token_ids.size
    del first, second
    gc.collect()
    assert gone() is None
    with pytest.raises(OverloadedError, match="closed"):
        work.submit(list)
    with pytest.raises(TokenizerError, match="closed"):
        tokenizers.encode(MODEL, "hello")
    assert own_process(config, limits).tokenizers.encode(MODEL, "hello").token_ids.size
