"""Texts and chats asked of a real cluster: by a pool, and in the own process, with the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import TokenizersConfig
from kvatlas.index.errors import InputError, TemplateError, TokenizerError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, wait_until
from tests.cluster.pool_rig import (
    CHATS,
    WORDS,
    HangingPod,
    cluster_of,
    serve_chats,
    tokenize_config,
    up,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def hanging() -> Iterator[HangingPod]:
    """The pod of the model `hanging`."""
    pod = HangingPod()
    yield pod
    pod.close()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, hanging: HangingPod) -> TokenizeConfig:
    return tokenize_config(tmp_path_factory.mktemp("models") / "small", {"hanging": hanging.url})


@pytest.fixture(scope="module")
def tokenizers(config: TokenizeConfig) -> Iterator[Tokenizers]:
    tokenizers = Tokenizers(config)
    yield tokenizers
    tokenizers.close()


@pytest.fixture(scope="module")
def fleet(tokenizers: Tokenizers) -> Iterator[Fleet]:
    with fleet_of(2) as fleet:
        serve_chats(fleet, tokenizers, CHATS)
        yield fleet


@pytest.fixture(scope="module", params=[0, 2], ids=["own process", "pool"])
def client(request: pytest.FixtureRequest, fleet: Fleet, config: TokenizeConfig) -> Iterator[Client]:
    pool = TokenizersConfig(count_min=request.param, count_max=request.param)
    with cluster_of(f"texts-{request.param}", fleet, config, pool, scorers=1) as client:
        fleet.wait_agreed(client)
        wait_until(lambda: len(up(client)) == request.param, 60)
        yield client


def test_texts_and_chats_score_as_their_token_ids(client: Client, tokenizers: Tokenizers) -> None:
    for messages in CHATS:
        ids = tokenizers.encode_chat(MODEL, Chat(messages=messages)).token_ids
        expected = client.score(ids, model=MODEL)
        assert max(expected.values()) > 0
        for given in (messages, Chat(messages=messages), {"model": "x", "messages": messages}):
            scores = client.score(messages=given, model=MODEL)
            assert (scores.matches, scores.prompt_blocks) == (expected.matches, expected.prompt_blocks)
        keys = client.block_keys(messages=messages, model=MODEL)
        assert np.array_equal(keys, client.block_keys(ids, model=MODEL))
        assert len(keys) == expected.prompt_blocks
        assert client.explain(messages=messages, model=MODEL) == client.explain(ids, model=MODEL)
        chosen = client.score(messages=messages, model=MODEL, pods=iter(["pod0"]), strategy="longest_prefix")
        assert (
            chosen.matches == client.score(ids, model=MODEL, pods=["pod0"], strategy="longest_prefix").matches
        )
    text = WORDS * 9
    ids = tokenizers.encode(MODEL, text).token_ids
    assert client.score(prompt=text, model=MODEL).matches == client.score(ids, model=MODEL).matches


def test_token_ids_are_those_of_an_embedded_tokenizer(client: Client, tokenizers: Tokenizers) -> None:
    texts = ["", "hello", WORDS * 50, "naïve 你好 🙂", "<|role|>user"]
    for text in texts:
        for special in (True, False):
            expected = tokenizers.encode(MODEL, text, add_special_tokens=special)
            found = client.encode(text, model=MODEL, add_special_tokens=special)
            assert np.array_equal(found.token_ids, expected.token_ids)
            assert found.token_ids.dtype == np.uint32
            assert (found.features, found.served_by) == (expected.features, expected.served_by)
    many = client.encode_many(texts, model=MODEL)
    expected_many = tokenizers.encode_many(MODEL, texts)
    assert [one.token_ids.tolist() for one in many] == [one.token_ids.tolist() for one in expected_many]
    assert client.encode_many([], model=MODEL) == []
    asked = Chat(messages=CHATS[0], tools=[{"type": "function", "function": {"name": "f"}}])
    found = client.encode_chat(asked, model=MODEL)
    assert np.array_equal(found.token_ids, tokenizers.encode_chat(MODEL, asked).token_ids)


def test_event_loops_get_the_same(client: Client) -> None:
    async def ask() -> None:
        scores = await asyncio.gather(
            *(client.score_async(messages=messages, model=MODEL) for messages in CHATS)
        )
        for messages, one in zip(CHATS, scores, strict=True):
            assert one.matches == client.score(messages=messages, model=MODEL).matches
        explained = await client.explain_async(messages=CHATS[0], model=MODEL)
        assert explained == client.explain(messages=CHATS[0], model=MODEL)
        keys = await client.block_keys_async(messages=CHATS[0], model=MODEL)
        assert np.array_equal(keys, client.block_keys(messages=CHATS[0], model=MODEL))
        one_text = await client.encode_async("hello", model=MODEL)
        assert np.array_equal(one_text.token_ids, client.encode("hello", model=MODEL).token_ids)
        (again,) = await client.encode_many_async(["hello"], model=MODEL)
        assert np.array_equal(again.token_ids, one_text.token_ids)
        of_chat = await client.encode_chat_async(CHATS[0], model=MODEL)
        assert np.array_equal(of_chat.token_ids, client.encode_chat(CHATS[0], model=MODEL).token_ids)
        with pytest.raises(TokenizerError, match="nobody"):
            await client.score_async(prompt="x", model="nobody/knows")

    asyncio.run(ask())


def test_a_scorer_takes_texts_too(client: Client) -> None:
    scorer = client.scorer()
    expected = client.score(messages=CHATS[2], model=MODEL)
    found: Any = ray.get(scorer.score.remote(messages=CHATS[2], model=MODEL))
    assert found.matches == expected.matches
    explained: Any = ray.get(scorer.explain.remote(prompt=WORDS, model=MODEL))
    assert explained == client.explain(prompt=WORDS, model=MODEL)
    with pytest.raises(InputError, match="one of"):
        ray.get(scorer.score.remote(model=MODEL))


def test_others_are_served_while_a_pod_hangs(client: Client, hanging: HangingPod) -> None:
    async def ask() -> None:
        client.encode("hello", model=MODEL)  # loaded where this goes
        slow = [asyncio.create_task(client.encode_async(f"hello {n}", model="hanging")) for n in range(12)]
        while not hanging.n_waiting:
            await asyncio.sleep(0.01)
        for _ in range(20):
            assert (await client.encode_async("hello", model=MODEL)).token_ids.size
        assert not any(task.done() for task in slow)
        while not all(task.done() for task in slow):
            hanging.hang_up()
            await asyncio.sleep(0.01)
        assert {type(task.exception()) for task in slow} == {TokenizerError}

    asyncio.run(ask())


class _Asker:
    """An actor that asks in its event loop."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, messages: list[dict[str, Any]]) -> Any:
        return (await self._client.score_async(messages=messages, model=MODEL)).matches


def test_a_client_is_taken_along_into_an_actor(client: Client) -> None:
    made: Any = ray.remote(_Asker)
    asker = made.options(num_cpus=0).remote(client)
    assert (
        ray.get(asker.ask.remote(CHATS[1]), timeout=60)
        == client.score(messages=CHATS[1], model=MODEL).matches
    )
    ray.kill(asker)


def test_bad_input_is_one_clear_error_and_others_are_served(client: Client) -> None:
    cyclic: dict[str, Any] = {"role": "user", "content": "x"}
    cyclic["self"] = cyclic
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputError, "one of", {}),
        (InputError, "one of", {"prompt": "x", "messages": CHATS[0]}),
        (InputError, "one of", {"token_ids": [1], "messages": CHATS[0]}),
        (InputError, "prompt", {"prompt": 5}),
        (InputError, "list of messages", {"messages": "hello"}),
        (InputError, "JSON", {"messages": [{"role": "user", "content": b"x"}]}),
        (InputError, "levels|depth", {"messages": [cyclic]}),
        (InputError, "levels|depth", {"messages": [{"role": "user", "content": deep}]}),
        (InputError, "surrogate", {"messages": [{"role": "user", "content": "\ud800"}]}),
        (InputError, "surrogate", {"prompt": "a\ud800"}),
        (InputError, "bytes", {"prompt": "x" * (100 << 20)}),
        (InputError, "bytes", {"messages": [{"role": "user", "content": "x" * (100 << 20)}]}),
        (TemplateError, "unknown role", {"messages": [{"role": "wizard", "content": "x"}]}),
        (InputError, r"messages\[0\]: expected an object|object", {"messages": [5]}),
    ]
    for kind, says, given in cases:
        with pytest.raises(kind, match=says):
            client.score(model=MODEL, **given)
        assert client.score(messages=CHATS[0], model=MODEL).prompt_blocks > 0
    for model in ("nobody/knows", "../../etc", "/etc", "a\0b", ""):
        with pytest.raises((TokenizerError, InputError)):
            client.encode("x", model=model)
    with pytest.raises(InputError, match="announced"):
        client.block_keys([1, 2, 3], model="nobody/knows")


def test_who_tokenizes_says_how_it_is(client: Client) -> None:
    client.encode("hello", model=MODEL)
    figures = client.tokenizer_statistics()
    if client.status().tokenizers:
        assert set(figures) == {"0", "1"}
        wait_until(lambda: all(one.is_up for one in client.status().tokenizers), 60)
        wait_until(lambda: sum(one.models for one in client.status().tokenizers) >= 1, 60)
    else:
        assert set(figures) == {"own"}
    assert sum(one.tokenizers.requests for one in figures.values()) > 0
