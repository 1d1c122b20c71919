"""Pods that refuse, break, hang, cut and drag: clients are told, others are tried, reservations end."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from kvatlas.cluster.config.proxy_config import ProxyConfig, ProxyLimits
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from tests.cluster.proxy.proxy_rig import BLOCK, MODEL, Rig, play, prompt, rig
from tests.ports import deaf_port


def limited(**limits: float) -> ProxyConfig:
    return ProxyConfig(host="127.0.0.1", limits=ProxyLimits(**limits))  # type: ignore[arg-type]


def deafen(one: Rig, pod: str, port: int) -> None:
    """The pod is gone, and nobody has said so."""
    told = Serving(url=f"http://127.0.0.1:{port}")
    one.atlas.set_serving(pod, ServingPod(pod=pod, model=MODEL, serving=told))


async def holder(one: Rig) -> str:
    """The pod that holds `prompt(1)`, and is chosen for it."""
    return (await one.complete(prompt(1))).pod


def other(one: Rig, pod: str) -> str:
    return next(name for name in one.pods if name != pod)


def test_the_next_best_is_asked_where_nobody_listens() -> None:
    async def scenario() -> None:
        async with rig() as one:
            pod = await holder(one)
            with deaf_port() as port:
                deafen(one, pod, port)
                answer = await one.complete(prompt(1))
                assert (answer.status, answer.pod) == (200, other(one, pod))
                assert one.counts["retries"] == one.counts["refused_by_pods"] == 1
                for seed in range(2, 6):
                    assert (await one.complete([*prompt(1), seed])).status == 200
                assert one.counts["refused_by_pods"] == 1, "it is left out for a while"
            assert one.reserved() == 0

    play(scenario())


def test_a_pod_that_was_left_out_is_tried_again() -> None:
    async def scenario() -> None:
        async with rig(config=limited(avoid_s=0.05)) as one:
            pod = await holder(one)
            with deaf_port() as port:
                deafen(one, pod, port)
                assert (await one.complete(prompt(1))).pod == other(one, pod)
            one.serve(pod)
            answers = [(await one.complete(prompt(seed))).pod for seed in range(2, 10)]
            while pod not in answers:  # prompts that nobody holds go anywhere
                answers.append((await one.complete(prompt(len(answers) + 100))).pod)

    play(scenario())


def test_no_pod_at_all_is_said_with_what_was_tried() -> None:
    async def scenario() -> None:
        async with rig() as one:
            with deaf_port() as port:
                for pod in one.pods:
                    deafen(one, pod, port)
                answer = await one.complete(prompt(1))
                assert answer.status == 502
                assert str(port) in answer.json["error"]["message"]
            assert one.reserved() == 0

    play(scenario())


def test_a_pod_that_breaks_before_it_answers_costs_one_more_try() -> None:
    async def scenario() -> None:
        async with rig() as one:
            pod = await holder(one)
            one.pods[pod].mood = "breaks"
            assert (await one.complete(prompt(1))).pod == other(one, pod)
            assert one.reserved() == 0

    play(scenario())


def test_a_request_that_breaks_pods_breaks_two_of_them_at_most() -> None:
    async def scenario() -> None:
        async with rig(pods=4) as one:
            for pod in one.pods.values():
                pod.mood = "breaks"
            answer = await one.complete(prompt(1))
            assert answer.status == 502
            assert sum(pod.counts["requests"] for pod in one.pods.values()) == 2
            assert one.reserved() == 0

    play(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("streams", [False, True])
def test_a_pod_that_accepts_and_never_answers_ends_in_504(streams: bool) -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=limited(answer_s_max=0.3)) as one:
            one.pods["pod0"].mood = "silent"
            answer = await one.complete(prompt(1), stream=streams)
            assert answer.status == 504
            assert answer.json["error"]["type"] == "silent_pod"
            assert one.reserved() == 0
            assert one.server.statistics().pod_connections == 0

    play(scenario())


@pytest.mark.parametrize("mood", ["cuts", "mute"])
def test_a_stream_that_ends_in_the_middle_is_seen_as_broken(mood: str) -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=limited(silence_s_max=0.3)) as one:
            one.pods["pod0"].mood = mood  # type: ignore[assignment]
            with pytest.raises(aiohttp.ClientPayloadError):
                await one.complete(prompt(1), stream=True)
            await one.until(lambda: one.counts["broken_answers"] == 1)
            assert one.reserved() == 0

    play(scenario())


def test_what_a_pod_answers_goes_to_the_client_also_when_it_is_an_error() -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            one.pods["pod0"].mood = "fails"
            answer = await one.complete(prompt(1))
            assert (answer.status, answer.json["error"]["message"]) == (500, "it failed")
            assert one.reserved() == 0

    play(scenario())


def test_a_connection_that_the_pod_has_closed_is_no_failure() -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            await one.complete(prompt(1))
            pod = one.pods["pod0"]
            url = one.urls["pod0"]
            pod.stop()
            await pod.start(port=int(url.rpartition(":")[2]))
            assert (await one.complete(prompt(1))).status == 200
            assert one.counts["retries"] == 0

    play(scenario())


def test_a_client_that_goes_away_has_the_pod_stop() -> None:
    async def scenario() -> None:
        async with rig(pods=1, tokens_per_s=100.0) as one:
            body = {"model": MODEL, "prompt": prompt(1), "stream": True, "max_tokens": 100_000}
            async with one.session.post(one.url + "/v1/completions", data=json.dumps(body)) as answer:
                await answer.content.readany()
                assert one.reserved() == 1
                answer.close()
            await one.until(lambda: one.pods["pod0"].counts["aborted"] == 1)
            await one.until(lambda: one.reserved() == 0)
            again = await one.complete(prompt(1))
            assert again.headers["x-kvatlas-predicted-cached-tokens"] == str(7 * BLOCK)

    play(scenario())


def test_a_client_that_goes_away_while_the_pod_computes_frees_its_place() -> None:
    async def scenario() -> None:
        async with rig(pods=1, prefill_tokens_per_s=1.0) as one:
            asking = asyncio.ensure_future(one.complete(prompt(1)))
            await one.until(lambda: one.pods["pod0"].counts["requests"] == 1)
            assert one.reserved() == 1
            asking.cancel()
            await one.until(lambda: one.reserved() == 0)
            await one.until(lambda: one.pods["pod0"].counts["aborted"] == 1)

    play(scenario())


def test_a_saturated_fleet_says_when_to_come_again() -> None:
    async def scenario() -> None:
        choosing = ChoosingConfig(queue_requests_max=0)
        async with rig(pods=1, choosing=choosing, tokens_per_s=10.0) as one:
            one.serve("pod0", requests_max=1)
            running = asyncio.ensure_future(one.complete(prompt(1), stream=True, max_tokens=20))
            await one.until(lambda: one.reserved() == 1)
            refused = await one.complete(prompt(2))
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json["error"]["type"] == "overloaded"
            assert (await running).status == 200

    play(scenario())


@pytest.mark.slow
def test_a_client_that_reads_slowly_has_the_pod_wait_and_costs_no_memory() -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            body = json.dumps({"model": MODEL, "prompt": prompt(1), "stream": True, "max_tokens": 200_000})
            _, writer = await asyncio.open_connection(
                "127.0.0.1", int(one.url.rpartition(":")[2]), limit=1024
            )
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body.encode())
            await one.until(lambda: len(one.server._clients) == 1)
            (client,) = one.server._clients
            await one.until(lambda: client._is_paused)
            assert client._transport.get_write_buffer_size() < 1 << 20
            writer.close()
            await one.until(lambda: one.pods["pod0"].counts["aborted"] == 1)

    play(scenario())


@pytest.mark.slow
def test_a_client_that_reads_nothing_for_too_long_is_let_go() -> None:
    async def scenario() -> None:
        async with rig(pods=1, config=limited(reading_s_max=0.3)) as one:
            body = json.dumps({"model": MODEL, "prompt": prompt(1), "stream": True, "max_tokens": 200_000})
            _, writer = await asyncio.open_connection(
                "127.0.0.1", int(one.url.rpartition(":")[2]), limit=1024
            )
            head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body.encode())
            await one.until(lambda: one.counts["slow_readers"] == 1)
            await one.until(lambda: one.reserved() == 0)
            writer.close()

    play(scenario())


def test_a_decode_pod_that_is_gone_has_another_asked() -> None:
    async def scenario() -> None:
        async with rig(pods=3, choosing=ChoosingConfig(bypass_tokens=0)) as one:
            one.serve("pod0", role="prefill")
            one.serve("pod1", role="decode")
            with deaf_port() as port:
                url = f"http://127.0.0.1:{port}"
                one.serve("pod2", role="decode", url=url)
                answers = [await one.complete(prompt(seed)) for seed in range(8)]
            assert {(answer.status, answer.pod) for answer in answers} == {(200, "pod1")}
            assert one.counts["refused_by_pods"] >= 1
            assert one.reserved() == 0

    play(scenario())


def test_a_failure_of_the_proxy_itself_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            one.server.proxy._models = None  # type: ignore[assignment]
            assert (await one.complete(prompt(1))).status == 500
            assert one.counts["failed_answers"] == 1

    play(scenario())
    assert "could not be answered" in caplog.text


def test_prefill_and_decode_are_asked_one_after_the_other_where_pods_are_split() -> None:
    async def scenario() -> None:
        choosing = ChoosingConfig(bypass_tokens=0)
        async with rig(choosing=choosing) as one:
            one.serve("pod0", role="prefill")
            one.serve("pod1", role="decode")
            answer = await one.complete(prompt(1), stream=True)
            assert (answer.status, answer.pod) == (200, "pod1")
            (prefill,), (decode,) = one.pods["pod0"].requests, one.pods["pod1"].requests
            assert prefill.body["max_tokens"] == 1
            assert prefill.body["stream"] is False
            assert prefill.body["kv_transfer_params"]["do_remote_decode"] is True
            assert decode.body["kv_transfer_params"]["remote_engine_id"] == "pod0"
            assert prefill.headers["x-request-id"] == decode.headers["x-request-id"]
            assert one.reserved() == 0

    play(scenario())
