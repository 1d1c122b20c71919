"""Requests that are passed on: to the pod that holds their prefix, with nothing lost on the way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kvatlas.cluster.config.proxy_config import ProxyConfig
from tests.cluster.proxy.proxy_rig import BLOCK, MODEL, Rig, play, prompt, rig


def test_a_completion_goes_where_its_prefix_is_and_the_headers_say_so() -> None:
    async def scenario() -> None:
        async with rig(pods=3) as one:
            first = await one.complete(prompt(1))
            assert first.status == 200
            assert first.headers["x-kvatlas-predicted-cached-tokens"] == "0"
            again = await one.complete([*prompt(1), 7, 8, 9])
            assert again.pod == first.pod == again.json["pod"]
            assert again.headers["x-kvatlas-predicted-cached-tokens"] == str(8 * BLOCK)
            assert again.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 8 * BLOCK
            assert one.counts["cached_tokens"] == 8 * BLOCK
            assert one.reserved() == 0

    play(scenario())


def test_a_stream_comes_part_by_part_as_the_pod_sent_it() -> None:
    async def scenario() -> None:
        async with rig() as one:
            answer = await one.complete(prompt(1), stream=True, max_tokens=50)
            assert answer.headers["content-type"].startswith("text/event-stream")
            texts = [event["choices"][0]["text"] for event in answer.events]
            assert texts == [f" w{place}" for place in range(50)]

    play(scenario())


@pytest.mark.parametrize(
    ("options", "sees_usage"),
    [({}, False), ({"stream_options": None}, False), ({"stream_options": {"include_usage": True}}, True)],
)
def test_usage_is_asked_for_and_kept_from_clients_that_did_not_ask(
    options: dict[str, Any], sees_usage: bool
) -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            await one.complete(prompt(1))
            answer = await one.complete(prompt(1), stream=True, **options)
            assert any("usage" in event for event in answer.events) is sees_usage
            assert len(answer.events) == 4 + sees_usage
            (pod,) = one.pods.values()
            assert pod.requests[-1].body["stream_options"] == {"include_usage": True}
            assert one.counts["cached_tokens"] == 7 * BLOCK, "the last block of a prompt is computed again"

    play(scenario())


def test_a_client_that_forbids_usage_is_taken_at_its_word() -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            await one.complete(prompt(1), stream=True, stream_options={"include_usage": False})
            (pod,) = one.pods.values()
            assert pod.requests[-1].body["stream_options"] == {"include_usage": False}

    play(scenario())


def test_a_receipt_joins_what_was_predicted_and_what_was_reused() -> None:
    async def scenario() -> None:
        async with rig() as one:
            await one.complete(prompt(1))
            answer = await one.complete([*prompt(1), 5], stream=True)
            request_id = answer.headers["x-kvatlas-request-id"]
            receipt = (await one.get(f"/v1/receipts/{request_id}")).json
            assert receipt["request_id"] == request_id
            assert receipt["predicted_cached_tokens"] == receipt["actual_cached_tokens"] == 8 * BLOCK
            assert (await one.get("/v1/receipts/nothing")).status == 404

    play(scenario())


def test_headers_go_on_but_those_of_the_connection() -> None:
    async def scenario() -> None:
        async with rig(pods=1) as one:
            given = {
                "x-request-id": "mine-1",
                "x-other": "kept",
                "connection": "keep-alive, x-private",
                "x-private": "dropped",
                "te": "trailers",
                "authorization": "Bearer of-the-pod",
                "x-data-parallel-rank": "7",
            }
            body = json.dumps({"model": MODEL, "prompt": prompt(1), "max_tokens": 1}).encode()
            answer = await one.post("/v1/completions", body, given)
            assert answer.headers["x-request-id"] == "mine-1"
            (pod,) = one.pods.values()
            seen = pod.requests[-1].headers
            assert seen["x-request-id"] == "mine-1"
            assert seen["x-other"] == "kept"
            assert seen["authorization"] == "Bearer of-the-pod"
            assert not {"x-private", "te", "x-data-parallel-rank"} & seen.keys()

    play(scenario())


def test_models_and_adapters_are_listed_and_asked_for_by_name() -> None:
    async def scenario() -> None:
        async with rig(pods=2) as one:
            one.serve("pod1", adapters=("poems",))
            listed = (await one.get("/v1/models")).json["data"]
            assert [(entry["id"], entry["parent"]) for entry in listed] == [("poems", MODEL), (MODEL, None)]
            for seed in range(4):
                answer = await one.complete(prompt(seed), model="poems")
                assert answer.pod == "pod1"
            refused = await one.complete(prompt(1), model="unknown")
            assert refused.status == 404
            assert refused.json["error"]["param"] == "model"

    play(scenario())


def test_a_request_without_a_model_is_for_the_only_one() -> None:
    async def scenario() -> None:
        async with rig() as one:
            assert (await one.post("/v1/completions", {"prompt": prompt(1)})).status == 200

    play(scenario())


def test_paths_that_are_allowed_go_to_the_least_loaded_pod_and_others_nowhere() -> None:
    async def scenario() -> None:
        async with rig() as one:
            answer = await one.post("/v1/embeddings", {"model": MODEL, "input": "a text"})
            assert answer.json == {"path": "/v1/embeddings", "pod": answer.pod}
            for path in ("/reset_prefix_cache", "/v1/../reset_prefix_cache", "/sleep", "/"):
                refused = await one.post(path, {"model": MODEL})
                assert refused.status == 404, path
            assert sum(pod.counts["requests"] for pod in one.pods.values()) == 1

    play(scenario())


def test_requests_of_a_burst_are_spread() -> None:
    count = 32

    async def scenario() -> None:
        async with rig(pods=4, tokens_per_s=50.0) as one:
            answers = await _together(one, count)
            by_pod = {name: sum(answer.pod == name for answer in answers) for name in one.pods}
            assert max(by_pod.values()) <= 1.5 * count / 4, by_pod
            assert one.reserved() == 0

    play(scenario())


async def _together(one: Rig, count: int) -> list[Any]:
    return list(
        await asyncio.gather(
            *(one.complete(prompt(seed), stream=True, max_tokens=8) for seed in range(count))
        )
    )


def test_tokens_of_a_file_let_in_and_name_the_tenant(tmp_path: Any) -> None:
    async def scenario() -> None:
        tokens = tmp_path / "tokens"
        tokens.write_text("alpha secret-a\nbeta secret-b\n")
        config = ProxyConfig(host="127.0.0.1", tokens_file=str(tokens))
        async with rig(pods=1, config=config) as one:
            assert (await one.complete(prompt(1))).status == 401
            body = {"model": MODEL, "prompt": prompt(1)}
            alpha, beta = {"authorization": "Bearer secret-a"}, {"authorization": "Bearer secret-b"}
            answer = await one.post("/v1/completions", body, alpha)
            assert answer.status == 200
            (pod,) = one.pods.values()
            assert "authorization" not in pod.requests[-1].headers
            path = f"/v1/receipts/{answer.headers['x-kvatlas-request-id']}"
            assert (await one.get(path, alpha)).status == 200
            assert (await one.get(path, beta)).status == 404
            assert (await one.get("/health")).status == 200

    play(scenario())


def test_figures_are_there_to_be_scraped() -> None:
    async def scenario() -> None:
        async with rig() as one:
            await one.complete(prompt(1), stream=True)
            text = (await one.get("/metrics")).body.decode()
            assert 'kvatlas_proxy_answers_total{status="200"} 1.0' in text
            assert "kvatlas_proxy_choice_seconds_count 1.0" in text
            assert "kvatlas_proxy_first_part_seconds_count 1.0" in text

    play(scenario())
