"""Choices, by Ray's own tracker, requests and replicas, with our application on them. No Serve, no vLLM."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from kvatlas.cluster.serve.llm.options import RouterOptions
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import InputError
from tests.cluster.serve.llm.ray_parts import (
    OTHER,
    PROMPT,
    REUSED,
    Engine,
    ended,
    engines,
    routers,
    run,
)


def test_a_request_goes_to_the_replica_whose_events_say_that_it_holds_the_prompt(stack: ExitStack) -> None:
    fleet = engines(stack, 3)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        fleet[2].server.serve(PROMPT)
        await router.until_heard(fleet[2], REUSED, PROMPT)
        assert await router.route("one", PROMPT) == fleet[2].pod
        receipt = await router.hear(("kvatlas_receipt", ("one",)))
        assert receipt["predicted_cached_tokens"] == REUSED

    run(test)


@pytest.mark.parametrize(
    "body",
    [{"prompt": PROMPT}, {"prompt": [PROMPT, OTHER]}, {"prompt": ["a", "b"], "kvatlas_token_ids": PROMPT}],
)
def test_prompts_that_ray_does_not_tokenize_are_scored_all_the_same(
    stack: ExitStack, body: dict[str, object]
) -> None:
    fleet = engines(stack, 3)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        fleet[1].server.serve(PROMPT)
        await router.until_heard(fleet[1], REUSED, PROMPT)
        assert await router.route("one", body=body) == fleet[1].pod

    run(test)


@pytest.mark.parametrize(
    "body",
    [{}, {"prompt": [-1, 2]}, {"prompt": [1 << 40]}, {"prompt": [[]]}, {"prompt": {"a": 1}, "cache_salt": 7}],
)
def test_what_has_no_token_ids_goes_where_the_least_is_to_do_and_says_so(
    stack: ExitStack, body: dict[str, object]
) -> None:
    fleet = engines(stack, 3)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        busy = {await router.route("one", PROMPT), await router.route("two", OTHER)}
        (idle,) = (engine for engine in fleet if engine.pod not in busy)
        assert await router.route("three", body=body) == idle.pod
        statistics = router.application.statistics()
        assert statistics.without_ids == 1
        assert statistics.reasons

    run(test)


def test_a_salt_in_the_body_keeps_one_tenants_blocks_from_anothers(stack: ExitStack) -> None:
    fleet = engines(stack, 2)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        fleet[0].server.serve(PROMPT, cache_salt="mine")
        fleet[0].server.serve(OTHER)
        await router.until_heard(fleet[0], REUSED, OTHER)
        await router.route("mine", PROMPT, body={"prompt": "text", "cache_salt": "mine"})
        await router.route("yours", PROMPT, body={"prompt": "text", "cache_salt": "yours"})
        mine = await router.hear(("kvatlas_receipt", ("mine", "", "mine")))
        yours = await router.hear(("kvatlas_receipt", ("yours", "", "yours")))
        assert mine["predicted_cached_tokens"] == REUSED
        assert yours["predicted_cached_tokens"] == 0
        assert await router.hear(("kvatlas_receipt", ("mine", "", "yours"))) is None

    run(test)


def test_an_adapter_goes_to_the_replica_that_has_it_loaded(stack: ExitStack) -> None:
    fleet = [Engine(0), Engine(1, adapters=["tiny:poet"]), Engine(2)]
    for engine in fleet:
        stack.callback(engine.close)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        pods = [await router.route(f"{number}", PROMPT, adapter="tiny:poet") for number in range(3)]
        assert set(pods) == {fleet[1].pod}
        assert await router.route("new", PROMPT, adapter="tiny:unknown") != fleet[1].pod

    run(test)


def test_a_data_parallel_rank_is_a_worker_of_its_own(stack: ExitStack) -> None:
    fleet = [Engine(0, rank=0), Engine(1, rank=1)]
    for engine in fleet:
        stack.callback(engine.close)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        fleet[1].server.serve(PROMPT)
        await router.until_heard(fleet[1], REUSED, PROMPT)
        assert await router.route("one", PROMPT) == fleet[1].pod
        receipt = await router.hear(("kvatlas_receipt", ("one",)))
        workers = {(one["pod"], one["rank"]) for one in receipt["candidates"]}
        assert (fleet[1].pod, 1) in workers
        assert (fleet[1].pod, 0) not in workers

    run(test)


def test_a_replica_is_followed_as_soon_as_it_tells_of_its_events(stack: ExitStack) -> None:
    fleet = engines(stack, 2)
    (router,) = routers(stack, 1)
    info = fleet[0].replica._replica_info
    told = dict(info.routing_stats)

    async def test() -> None:
        info.routing_stats.clear()
        router.update(fleet)
        assert await router.route("one", PROMPT) in {engine.pod for engine in fleet}
        await router.hear(*ended("one", fleet[0]))
        info.routing_stats.update(told)
        router.update(fleet)
        fleet[0].server.serve(OTHER)
        await router.until_heard(fleet[0], REUSED, OTHER)
        assert await router.route("two", OTHER) == fleet[0].pod

    run(test)


def test_where_all_are_saturated_ray_is_told_to_answer_503(stack: ExitStack) -> None:
    fleet = engines(stack, 1)
    (router,) = routers(
        stack, 1, RouterOptions(choosing=ChoosingConfig(saturation_tokens=10, speculative_s=0))
    )

    async def test() -> None:
        router.update(fleet)
        await router.route("one", PROMPT)
        with pytest.raises(RuntimeError, match="saturated"):
            await router.route("two", OTHER)
        assert router.application.statistics().overloaded == 1

    run(test)


def test_a_session_prefers_its_replica(stack: ExitStack) -> None:
    fleet = engines(stack, 4)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        pods = set()
        for number in range(6):
            pods.add(await router.route(f"{number}", list(range(50)), session="chat"))
            await router.hear(*ended(f"{number}", fleet[0]))
        assert len(pods) == 1

    run(test)


def test_no_receipt_is_told_of_a_request_that_nobody_made(stack: ExitStack) -> None:
    (router,) = routers(stack, 1)

    async def test() -> None:
        assert await router.hear(("kvatlas_receipt", ("nobody's",))) is None
        assert await router.application.routing.choose([], None) is None

    run(test)
    chooser = router.application.fleet.chooser
    assert chooser is not None
    with pytest.raises(InputError):
        chooser.receipt("nobody's")
