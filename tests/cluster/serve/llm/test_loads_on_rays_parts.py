"""What counts as a replica's load, by what Ray's own tracker and broadcast hand over. No Serve, no vLLM."""

from __future__ import annotations

from contextlib import ExitStack

from kvatlas.cluster.serve.llm.options import RouterOptions
from tests.cluster.serve.llm.ray_parts import (
    OTHER,
    PROMPT,
    REUSED,
    Broadcast,
    arrived,
    ended,
    engines,
    routers,
    run,
)


def test_the_load_of_a_request_begins_with_its_choice_and_ends_with_rays_word_of_its_end(
    stack: ExitStack,
) -> None:
    fleet = engines(stack, 2)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        first = await router.route("one", PROMPT)
        second = await router.route("two", OTHER)
        assert first != second  # the first's reservation is seen by the second
        chosen = next(engine for engine in fleet if engine.pod == first)
        assert router.load(chosen) == 1
        await router.hear(arrived("one", chosen), ("on_prefill_complete", ("one",)))
        await router.hear(("on_decode_progress", ("one", 7)), *ended("one", chosen, cached=0, output=7))
        assert router.load(chosen) == 0
        receipt = await router.hear(("kvatlas_receipt", ("one",)))
        assert receipt["actual_cached_tokens"] == 0

    run(test)


def test_where_a_replica_does_not_report_rays_words_alone_are_enough(stack: ExitStack) -> None:
    fleet = engines(stack, 1)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        await router.route("one", PROMPT)
        await router.hear(("on_prefill_complete", ("one",)), ("on_request_completed", ("one",)))
        assert router.load(fleet[0]) == 0
        assert router.application.statistics().completed == 1

    run(test)


def test_two_requests_with_one_id_both_count_until_each_has_ended(stack: ExitStack) -> None:
    fleet = engines(stack, 1)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        await router.route("same", PROMPT)
        await router.route("same", PROMPT)
        assert router.load(fleet[0]) == 2
        await router.hear(arrived("same", fleet[0]), arrived("same", fleet[0]))
        await router.hear(*ended("same", fleet[0]))
        assert router.load(fleet[0]) == 1
        await router.hear(*ended("same", fleet[0]))
        assert router.load(fleet[0]) == 0
        assert router.application.statistics().duplicates == 1

    run(test)


def test_a_batch_is_one_load_that_ends_with_its_last_prompt(stack: ExitStack) -> None:
    fleet = engines(stack, 1)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        await router.route("batch", body={"prompt": [PROMPT, OTHER]})
        await router.hear(arrived("batch", fleet[0]), arrived("batch", fleet[0]))
        await router.hear(*ended("batch", fleet[0]))
        assert router.load(fleet[0]) == 1
        await router.hear(*ended("batch", fleet[0]))
        assert router.load(fleet[0]) == 0

    run(test)


def test_other_llm_routers_count_a_choice_until_its_end(stack: ExitStack) -> None:
    fleet = engines(stack, 2)
    mine, peer = both = routers(stack, 2)

    async def test() -> None:
        for router in both:
            router.update(fleet)
            router.tracker.start_reservation_broadcast(Broadcast(both))
        chosen = await mine.route("one", PROMPT)
        forwarder = mine.tracker._reservation_forwarder
        assert forwarder is not None
        await forwarder.flush()
        engine = next(engine for engine in fleet if engine.pod == chosen)
        assert mine.load(engine) == peer.load(engine) == 1
        assert await peer.route("two", OTHER) != chosen
        for router in both:
            await router.hear(arrived("one", engine), *ended("one", engine))
        assert mine.load(engine) == peer.load(engine) == 0
        late = {
            "request_id": "one",
            "source_ingress_replica_rank": 0,
            "pod": chosen,
            "dp_rank": 0,
            "isl_tokens": 5,
            "expected_output_tokens": None,
            "effective_prefill_tokens": 5,
        }
        await peer.hear_peer(late)
        assert peer.load(engine) == 0  # the news of its choice came after that of its end

    run(test)


def test_what_never_arrives_is_no_load_any_more_and_is_again_when_it_does(stack: ExitStack) -> None:
    fleet = engines(stack, 1)
    (router,) = routers(stack, 1, RouterOptions(arrival_s_max=0.1))

    async def test() -> None:
        router.update(fleet)
        await router.route("here", PROMPT)
        await router.hear(arrived("here", fleet[0]))
        await router.route("lost", OTHER)
        await router.until_given_up(1)
        assert router.load(fleet[0]) == 1
        await router.hear(arrived("lost", fleet[0]))
        assert router.load(fleet[0]) == 2
        await router.hear(*ended("lost", fleet[0]))
        assert router.load(fleet[0]) == 1
        statistics = router.application.statistics()
        assert (statistics.never_arrived, statistics.late_arrivals) == (1, 1)

    run(test)


def test_what_arrives_at_another_replica_is_that_ones_load(stack: ExitStack) -> None:
    fleet = engines(stack, 2)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        chosen = await router.route("one", PROMPT)
        here, there = sorted(fleet, key=lambda engine: engine.pod != chosen)
        await router.hear(arrived("one", there))
        assert (router.load(here), router.load(there)) == (0, 1)
        await router.hear(*ended("one", there))
        assert (router.load(here), router.load(there)) == (0, 0)

    run(test)


def test_a_replica_that_is_gone_is_no_candidate_and_its_requests_end(stack: ExitStack) -> None:
    fleet = engines(stack, 2)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        fleet[0].server.serve(PROMPT)
        await router.until_heard(fleet[0], REUSED, PROMPT)
        assert await router.route("one", PROMPT) == fleet[0].pod
        router.update(fleet[1:])
        assert router.application.statistics().open_requests == 0
        assert await router.route("two", PROMPT) == fleet[1].pod

    run(test)


def test_bad_news_are_counted_and_the_good_ones_beside_them_count(stack: ExitStack) -> None:
    fleet = engines(stack, 1)
    (router,) = routers(stack, 1)

    async def test() -> None:
        router.update(fleet)
        await router.route("one", PROMPT)
        await router.hear(
            ("on_decode_progress", ("one", -5)),
            ("on_decode_progress", ("one",)),
            ("on_something_new", ("one", 1)),
            ("on_request_completed", ("nobody's",)),
            ("on_request_completed", ("one",)),
        )
        statistics = router.application.statistics()
        assert (statistics.bad_events, statistics.not_ours, statistics.completed) == (3, 1, 1)
        assert router.load(fleet[0]) == 0

    run(test)
