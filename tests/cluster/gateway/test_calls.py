"""The gateway's calls over real HTTP, against the atlas and chooser behind it."""

from __future__ import annotations

import base64

import numpy as np

from kvatlas.tokenize.tokenizers import Tokenizers
from tests.cluster.gateway.rig import BLOCK_SIZE, MODEL, PROMPT, Asker, EmbeddedBackend, stored

CHAT = [{"role": "user", "content": "what do you hold of this chat, and where does it end?"}]


def test_scores_are_those_of_the_atlas(asker: Asker, backend: EmbeddedBackend) -> None:
    answer = asker.post("/v1/score", {"model": MODEL, "token_ids": PROMPT})
    assert answer.status == 200
    scores = backend.atlas.score(PROMPT, model=MODEL)
    assert answer.body["scores"] == dict(scores) == {"pod-a": 5.0, "pod-b": 3.0}
    best = answer.body["workers"][0]
    assert (best["pod"], best["rank"], best["blocks"], best["tier_blocks"]) == ("pod-a", 0, 5, {"gpu": 5})
    assert answer.body["block_size_tokens"] == BLOCK_SIZE and answer.body["prompt_blocks"] == 5
    assert answer.body["is_whole"]


def test_a_prompt_has_one_score_in_each_of_its_forms(asker: Asker) -> None:
    as_bytes = base64.b64encode(np.asarray(PROMPT, "<u4").tobytes()).decode()
    forms: list[dict[str, object]] = [{"token_ids": PROMPT}, {"token_bytes": as_bytes}, {"prompt": PROMPT}]
    answers = [asker.post("/v1/score", {"model": MODEL, **form}) for form in forms]
    assert all(answer.body == answers[0].body for answer in answers)
    assert answers[0].body["scores"]


def test_a_text_and_a_chat_are_scored_as_their_token_ids(
    asker: Asker, backend: EmbeddedBackend, gateway_tokenizers: Tokenizers
) -> None:
    text = gateway_tokenizers.tokenize(MODEL, prompt="x" * 64).token_ids.tolist()
    chat = gateway_tokenizers.tokenize(MODEL, messages=CHAT).token_ids.tolist()
    for pod, ids in (("pod-t", text), ("pod-c", chat)):
        blocks = len(ids) // BLOCK_SIZE
        batch = stored(list(range(1, blocks + 1)), ids[: blocks * BLOCK_SIZE])
        backend.atlas.ingest(f"kv@{pod}@{MODEL}".encode(), 0, batch)
    of_text = asker.post("/v1/score", {"model": MODEL, "prompt": "x" * 64})
    openai_body = {"model": MODEL, "messages": CHAT, "temperature": 0.5, "stream": True, "max_tokens": 9}
    of_chat = asker.post("/v1/score", openai_body)
    assert list(of_text.body["scores"]) == ["pod-t"] and list(of_chat.body["scores"]) == ["pod-c"]


def test_only_the_pods_that_are_named_are_scored(asker: Asker) -> None:
    answer = asker.post("/v1/score", {"model": MODEL, "token_ids": PROMPT, "pods": ["pod-b"]})
    assert answer.body["scores"] == {"pod-b": 3.0}


def test_a_model_that_nobody_serves_scores_nothing(asker: Asker) -> None:
    answer = asker.post("/v1/score", {"model": "other", "token_ids": PROMPT})
    assert (answer.status, answer.body["scores"], answer.body["block_size_tokens"]) == (200, {}, 0)


def test_an_explanation_says_why_a_match_ends(asker: Asker) -> None:
    answer = asker.post("/v1/explain", {"model": MODEL, "token_ids": PROMPT})
    by_pod = {worker["pod"]: worker for worker in answer.body["workers"]}
    assert by_pod["pod-b"]["ends_at_block"] == 3 and by_pod["pod-b"]["reason"]


def test_a_choice_is_reserved_and_ends_with_its_completion(asker: Asker, backend: EmbeddedBackend) -> None:
    choice = asker.post("/v1/choose", {"model": MODEL, "token_ids": PROMPT, "request_id": "r 1/ä"}).body
    assert (choice["pod"], choice["url"], choice["is_reserved"]) == ("pod-a", "http://pod-a:8000", True)
    assert choice["request_id"] == "r 1/ä" and choice["cached_tokens"] > 0
    name = "r%201%2F%C3%A4"
    assert backend.chooser.statistics().in_flight == 1
    assert asker.post(f"/v1/requests/{name}/prefill_done").status == 200
    assert asker.post(f"/v1/requests/{name}/produced", {"tokens": 3}).status == 200
    told = asker.post(f"/v1/requests/{name}/completed", {"cached_tokens": 64, "output_tokens": 7})
    assert (told.status, told.body) == (200, {"request_id": "r 1/ä"})
    assert backend.chooser.statistics().in_flight == 0
    receipt = asker.get(f"/v1/receipts/{name}").body
    assert (receipt["outcome"], receipt["actual_cached_tokens"], receipt["pod"]) == ("completed", 64, "pod-a")
    assert {account["pod"] for account in receipt["candidates"]} == {"pod-a", "pod-b"}


def test_a_choice_of_a_chat_needs_no_token_ids(asker: Asker) -> None:
    choice = asker.post("/v1/choose", {"model": MODEL, "messages": CHAT, "labels": {"zone": "b"}})
    assert (choice.status, choice.body["pod"], choice.body["reason"]) == (200, "pod-b", "")
    assert choice.body["prompt_tokens"] > 0


def test_a_failed_request_is_counted_and_frees_its_worker(asker: Asker, backend: EmbeddedBackend) -> None:
    choice = asker.post("/v1/choose", {"model": MODEL, "token_ids": PROMPT}).body
    assert asker.post(f"/v1/requests/{choice['request_id']}/failed", {"why": "no answer"}).status == 200
    statistics = backend.chooser.statistics()
    assert (statistics.in_flight, statistics.failed) == (0, 1)


def test_pods_are_shown_with_their_workers(asker: Asker) -> None:
    pods = {pod["pod"]: pod for pod in asker.get("/v1/pods").body["pods"]}
    assert set(pods) == {"pod-a", "pod-b"}
    assert pods["pod-a"]["url"] == "http://pod-a:8000" and pods["pod-a"]["labels"] == {"zone": "a"}
    assert pods["pod-a"]["workers"][0]["state"] in {"EXACT", "PARTIAL", "DEGRADED"}


def test_health_and_metrics_are_told(asker: Asker) -> None:
    assert asker.get("/healthz").status == 200
    assert asker.get("/readyz").body["is_ready"]
    asker.post("/v1/choose", {"model": MODEL, "token_ids": PROMPT})
    text = asker.get("/metrics").body.decode()
    assert 'kvatlas_gateway_requests_total{call="choose",status="200",transport="http"} 1.0' in text
    assert 'kvatlas_choosing{what="choices"} 1.0' in text
