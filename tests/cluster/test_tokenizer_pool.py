"""A pool of tokenizers on a real Ray: stickiness, overload, death, growth."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ray

from kvatlas.actors.tokenizer.figures import TokenizerFigures
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import Resources, TokenizersConfig
from kvatlas.index.errors import ClusterError, InputError, OverloadedError
from kvatlas.tokenize.config import TokenizeConfig
from tests.cluster.living_fleet import MODEL, living_process_of, process_of, wait_until
from tests.cluster.pool_rig import (
    CHATS,
    actor,
    chat,
    cluster_of,
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
def config(tmp_path_factory: pytest.TempPathFactory) -> TokenizeConfig:
    return tokenize_config(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def pool(config: TokenizeConfig) -> Iterator[Client]:
    """Two tokenizers of one thread, with short queues."""
    limits = TokenizersConfig(
        count_min=2, count_max=2, threads=1, waiting_max=4, call_s_max=30.0, wait_s_max=20.0
    )
    with cluster_of("two", None, config, limits) as client:
        wait_until(lambda: len(up(client)) == 2, 60)
        yield client


def served(client: Client) -> dict[int, int]:
    """Requests that each tokenizer has done."""
    return {
        int(number): one.work.counts.get("done", 0) for number, one in client.tokenizer_statistics().items()
    }


def figures(client: Client) -> list[TokenizerFigures]:
    return list(client.tokenizer_statistics().values())


def test_all_turns_of_a_conversation_go_to_one_tokenizer(pool: Client) -> None:
    places = set()
    for number in range(12):
        before = served(pool)
        for turns in range(0, 6, 2):
            pool.encode_chat(chat(f"conversation {number}", turns), model=MODEL)
        after = served(pool)
        (place,) = (one for one in after if after[one] != before[one])
        assert after[place] - before[place] == 3
        places.add(place)
    assert places == {0, 1}


def test_a_crowd_is_told_so_and_whoever_fits_is_served(pool: Client) -> None:
    """One thread each, four may wait: of forty long texts at once some are refused, the others right."""
    text = "0 " * 200_000
    expected = pool.encode(text, model=MODEL).token_ids.tolist()

    async def ask() -> list[Any]:
        return await asyncio.gather(
            *(pool.encode_async(text + str(n), model=MODEL) for n in range(40)), return_exceptions=True
        )

    answers = asyncio.run(ask())
    refused = [one for one in answers if isinstance(one, BaseException)]
    assert refused and len(refused) < 40
    assert {type(one) for one in refused} == {OverloadedError}
    right = [
        one.token_ids.tolist()[: len(expected) - 5] for one in answers if not isinstance(one, BaseException)
    ]
    assert all(one == expected[: len(expected) - 5] for one in right)
    both = served(pool)
    assert all(count > 0 for count in both.values())
    assert sum(one.work.counts["refused"] for one in pool.tokenizer_statistics().values()) > 0
    assert pool.encode("hello", model=MODEL).token_ids.size


def test_calls_that_are_given_up_are_not_begun(pool: Client) -> None:
    wait_until(lambda: up(pool) == (0, 1), 60)
    before = sum(served(pool).values())

    async def ask() -> None:
        tasks = [asyncio.create_task(pool.encode_async(f"{n} " * 500_000, model=MODEL)) for n in range(6)]
        await asyncio.sleep(0)  # all are on their way
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(ask())
    for number in (0, 1):
        ray.get(actor(pool, number).ping.remote())  # came after them
    wait_until(lambda: all(one.work.busy + one.work.waiting == 0 for one in figures(pool)), 60)
    assert sum(served(pool).values()) - before < 6


def test_answers_go_on_while_a_tokenizer_is_killed(pool: Client) -> None:
    expected = [pool.encode_chat(messages, model=MODEL).token_ids.tolist() for messages in CHATS]
    stopping = threading.Event()
    wrong: list[Any] = []
    counted = [0]

    def ask(offset: int) -> None:
        at = offset
        while not stopping.is_set():
            at = (at + 1) % len(CHATS)
            try:
                found = pool.encode_chat(CHATS[at], model=MODEL).token_ids.tolist()
                if found != expected[at]:
                    wrong.append((at, found[:5]))
            except Exception as error:
                wrong.append(error)
            counted[0] += 1

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for number in (0, 1):
        name = f"{pool.cluster}/tokenizer/{number}"
        before = living_process_of(name)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: process_of(name) not in (0, before), 60)  # noqa: B023
        done = counted[0]
        wait_until(lambda: counted[0] > done + 20, 60)  # noqa: B023
        wait_until(lambda: up(pool) == (0, 1), 60)
    stopping.set()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_tokenizer_that_stands_still_is_left_for_another(pool: Client) -> None:
    wait_until(lambda: up(pool) == (0, 1), 60)
    process = living_process_of(f"{pool.cluster}/tokenizer/0")
    os.kill(process, signal.SIGSTOP)
    try:
        for messages in CHATS:
            assert pool.encode_chat(messages, model=MODEL).token_ids.size
    finally:
        os.kill(process, signal.SIGCONT)
    wait_until(lambda: up(pool) == (0, 1), 60)


def test_a_pool_outlives_its_directory_and_answers_meanwhile(pool: Client) -> None:
    wait_until(lambda: up(pool) == (0, 1), 60)
    names = [f"{pool.cluster}/tokenizer/{number}" for number in (0, 1)]
    before = [living_process_of(name) for name in names]
    expected = pool.encode_chat(CHATS[0], model=MODEL).token_ids.tolist()
    directory = living_process_of(f"{pool.cluster}/directory")
    os.kill(directory, signal.SIGKILL)

    def is_back() -> bool:
        assert pool.encode_chat(CHATS[0], model=MODEL).token_ids.tolist() == expected
        return process_of(f"{pool.cluster}/directory") not in (0, directory)

    wait_until(is_back, 60)
    wait_until(lambda: [one.is_up for one in pool.status().tokenizers] == [True, True], 60)
    wait_until(lambda: [process_of(name) for name in names] == before, 60)


def test_the_pool_grows_under_load_and_shrinks_when_idle(config: TokenizeConfig) -> None:
    limits = TokenizersConfig(count_min=1, count_max=3, threads=1, grow_s=1.0, shrink_s=2.0)
    with cluster_of("growing", None, config, limits) as client:
        wait_until(lambda: up(client) == (0,), 60)
        stopping = threading.Event()
        wrong: list[Exception] = []

        def ask(number: int) -> None:
            for turn in itertools.count():
                if stopping.is_set():
                    return
                try:
                    client.encode(f"{number} {turn} " * 50_000, model=MODEL)  # nothing is remembered
                except OverloadedError:
                    continue
                except Exception as error:
                    wrong.append(error)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: up(client) == (0, 1, 2), 120, client.status)
        stopping.set()
        for thread in threads:
            thread.join(60)
        wait_until(lambda: up(client) == (0,), 120, client.status)
        assert client.encode("hello", model=MODEL).token_ids.size
        assert wrong == []
        counts = client.status().counts
        assert counts["tokenizers_added"] >= 2
        assert counts["tokenizers_removed"] >= 2
        wait_until(lambda: process_of("growing/tokenizer/2") == 0, 60)


def test_a_pool_where_nobody_is_up_says_so(config: TokenizeConfig) -> None:
    nowhere = Resources(custom={"not here": 1.0})
    limits = TokenizersConfig(count_min=1, count_max=1, call_s_max=1.0, resources=nowhere)
    with (
        cluster_of("empty", None, config, limits) as client,
        pytest.raises(ClusterError, match="expected a tokenizer"),
    ):
        client.encode("hello", model=MODEL)


def test_handles_of_tokenizers_can_be_called_by_anybody(pool: Client) -> None:
    wait_until(lambda: up(pool) == (0, 1), 60)
    ids, features, served_by = ray.get(actor(pool, 0).encode.remote("hello", MODEL))
    assert np.frombuffer(ids, np.uint32).tolist() == pool.encode("hello", model=MODEL).token_ids.tolist()
    assert (tuple(features), served_by) == ((), pool.encode("hello", model=MODEL).served_by)
    assert ray.get(actor(pool, 0).ping.remote()) == living_process_of(f"{pool.cluster}/tokenizer/0")
    with pytest.raises(InputError, match="msgpack"):
        ray.get(actor(pool, 0).score.remote(b"\xff", {"model": MODEL}))
