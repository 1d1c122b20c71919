"""The same hostile chats through a real cluster: by a pool, and by the client's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import TokenizersConfig
from kvatlas.index.errors import InputError, KvatlasError, TokenizerError
from kvatlas.tokenize.config import TokenizeConfig, TokenizeLimits
from tests.cluster.living_fleet import wait_until
from tests.cluster.pool_rig import cluster_of, up
from tests.tokenize.bad_input.hostile_chats import BIG, CHATS
from tests.tokenize.bad_input.victims import TEXT, check_message, plain_ids

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module", params=[0, 1], ids=["own process", "pool"])
def client(request: pytest.FixtureRequest, folder: Path) -> Iterator[Client]:
    pool = TokenizersConfig(count_min=request.param, count_max=request.param, threads=2, waiting_max=8)
    config = TokenizeConfig(
        folders=(str(folder),),
        order=("folders",),
        request_templates=True,
        limits=TokenizeLimits(render_s_max=1.0),
    )
    with cluster_of(f"hostile-{request.param}", None, config, pool) as client:
        wait_until(lambda: len(up(client)) == request.param, 60)
        yield client


def check_served(client: Client) -> None:
    assert client.encode(TEXT, model="good").token_ids.tolist() == plain_ids(TEXT, True)


def test_hostile_chats_are_one_clear_error_each(client: Client) -> None:
    for name, (chat, _, _) in CHATS.items():
        with pytest.raises(KvatlasError) as caught:
            client.encode_chat(chat, model="curious")
        check_message(caught.value)
        assert isinstance(caught.value, (InputError, TokenizerError)), name
        check_served(client)


def test_hostile_chats_awaited_all_at_once_leave_nothing_behind(client: Client) -> None:
    async def ask() -> list[Any]:
        chats = [chat for chat, _, _ in CHATS.values() if not isinstance(chat, (int, type(None)))]
        asked = (client.encode_chat_async(chat, model="curious") for chat in chats)
        return await asyncio.gather(*asked, return_exceptions=True)

    for error in asyncio.run(ask()):
        check_message(error)  # an overloaded queue says so, too
    check_served(client)
    for figures in client.tokenizer_statistics().values():
        assert (figures.work.waiting, figures.work.bytes) == (0, 0)


@pytest.mark.parametrize("texts", [[5], ["a", None], ["\ud800"], "one text", 5, None, [BIG * 5]])
def test_hostile_texts_are_one_clear_error_each(client: Client, texts: Any) -> None:
    with pytest.raises(InputError) as caught:
        client.encode_many(texts, model="good")
    check_message(caught.value)
    check_served(client)


@pytest.mark.parametrize("text", [5, None, ["a"], b"a", "\ud800", BIG * 5])
def test_hostile_text_is_one_clear_error(client: Client, text: Any) -> None:
    with pytest.raises(InputError) as caught:
        client.encode(text, model="good")
    check_message(caught.value)
    check_served(client)


@pytest.mark.parametrize("model", ["../good", "good\0", "", "a" * (10 << 20), "nobody", None, 5])
def test_hostile_names_are_one_clear_error_each(client: Client, model: Any) -> None:
    with pytest.raises((InputError, TokenizerError)) as caught:
        client.encode("x", model=model)
    check_message(caught.value)
    check_served(client)
