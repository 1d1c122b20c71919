"""What callers should not send: each is answered, says what and where, and costs nobody else anything."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kvatlas.cluster.config.gateway_config import GatewayConfig, GatewayLimits
from kvatlas.index.choosing.settings import ChoosingConfig
from tests.cluster.gateway.rig import MODEL, PROMPT, Asker, EmbeddedBackend, fill, served

BODY_BYTES_MAX = 64 << 10
LIMITS = GatewayLimits(body_bytes_max=BODY_BYTES_MAX, body_s_max=0.5, containers_max=1000, answer_s_max=0.5)


@pytest.fixture(scope="module")
def narrow() -> Iterator[Asker]:
    """With narrow limits."""
    backend = EmbeddedBackend()
    fill(backend)
    with served(backend, GatewayConfig(limits=LIMITS)) as asker:
        yield asker


@pytest.mark.parametrize(
    ("body", "where", "message"),
    [
        (b"", "$", "input data was truncated"),
        (b"{", "$", "input data was truncated"),
        (b"[1]", "$", "expected `object`"),
        ({"token_ids": [1]}, "$", "missing required field `model`"),
        ({"model": 5, "token_ids": [1]}, "$.model", "expected `str`, got `int`"),
        ({"model": MODEL}, "$", "expected one of token_ids, token_bytes, prompt, messages, got none"),
        ({"model": MODEL, "token_ids": [1], "prompt": "x"}, "$", "got token_ids, prompt"),
        ({"model": MODEL, "token_ids": [1, -1]}, "$.token_ids[1]", "expected `int` >= 0"),
        ({"model": MODEL, "token_ids": [1, 1 << 32]}, "$.token_ids[1]", "expected `int` <= 4294967295"),
        ({"model": MODEL, "token_ids": [1, 10**30]}, "$.token_ids[1]", ""),
        ({"model": MODEL, "token_ids": [1.5]}, "$.token_ids[0]", "expected `int`, got `float`"),
        ({"model": MODEL, "token_bytes": "AAA="}, "token_ids", "bytes of 4 a token"),
        ({"model": MODEL, "prompt": ["a", "b"]}, "$.prompt[0]", "expected `int`, got `str`"),
        ({"model": MODEL, "messages": "hello"}, "$.messages", "expected `array"),
        ({"model": MODEL, "token_ids": [1], "strategy": "best"}, "$.strategy", "best"),
        (b'{"model": "\xff"}', "$", "UTF-8"),
        (b'{"model":"small","token_ids":[1],"x":[' + b"[]," * 2000 + b"[]]}", "$", "at most 1000 objects"),
    ],
)
def test_a_body_that_cannot_be_understood_says_where(
    narrow: Asker, body: Any, where: str, message: str
) -> None:
    answer = narrow.post("/v1/score", body)
    assert answer.status == 400 and answer.error["type"] == "invalid_request"
    assert answer.error["where"] == where and message in answer.error["message"], answer.error


def test_nesting_without_end_is_no_way_to_end_the_process() -> None:
    nested = b'{"model":"small","token_ids":[1],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with served(EmbeddedBackend()) as asker:
        answer = asker.post("/v1/score", nested)
        assert answer.status == 400 and "nested too deeply" in answer.error["message"]
        assert asker.get("/healthz").status == 200


def test_brackets_inside_of_texts_are_no_containers(narrow: Asker) -> None:
    salt = '[[{{\\"' * 2000
    assert narrow.post("/v1/score", {"model": MODEL, "token_ids": PROMPT, "cache_salt": salt}).status == 200


def test_an_empty_prompt_is_answered(narrow: Asker) -> None:
    scored = narrow.post("/v1/score", {"model": MODEL, "token_ids": []})
    assert (scored.status, scored.body["scores"]) == (200, {})
    assert narrow.post("/v1/choose", {"model": MODEL, "token_ids": []}).status == 400


def test_a_large_body_is_refused_by_its_announced_length_and_by_what_comes(narrow: Asker) -> None:
    announced = b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: 104857600\r\n\r\n"
    assert b" 413 " in narrow.raw(announced).split(b"\r\n")[0]
    chunk = b"%x\r\n%b\r\n" % (BODY_BYTES_MAX, b"x" * BODY_BYTES_MAX)
    chunked = b"POST /v1/score HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 2
    assert b" 413 " in narrow.raw(chunked).split(b"\r\n")[0]


def test_a_body_that_does_not_come_is_given_up(narrow: Asker) -> None:
    begun = b"POST /v1/score HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
    answer = narrow.raw(begun)
    assert b" 408 " in answer.split(b"\r\n")[0] and b"slow_body" in answer


def test_a_caller_who_goes_while_sending_harms_nobody(narrow: Asker) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", narrow.port)) as connection:
            connection.sendall(b"POST /v1/choose HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    assert narrow.post("/v1/score", {"model": MODEL, "token_ids": PROMPT}).status == 200


def test_nobody_is_chosen_for_a_model_pod_or_label_that_is_not_there(narrow: Asker) -> None:
    asked: dict[str, Any]
    for asked in ({"model": "other"}, {"pods": ["nobody"]}, {"labels": {"zone": "z"}}, {"pods": []}):
        answer = narrow.post("/v1/choose", {"model": MODEL, "token_ids": PROMPT, **asked})
        assert (answer.status, answer.error["type"]) == (404, "no_worker"), answer


def test_a_request_that_nobody_knows_is_not_found(narrow: Asker) -> None:
    for path in ("prefill_done", "completed", "failed"):
        answer = narrow.post(f"/v1/requests/nobody/{path}")
        assert (answer.status, answer.error["type"], answer.error["where"]) == (
            404,
            "unknown_request",
            "request_id",
        )
    assert narrow.get("/v1/receipts/nobody").status == 404


@pytest.mark.parametrize(
    ("kind", "body", "where"),
    [
        ("produced", {"tokens": -1}, "$.tokens"),
        ("produced", {}, "$"),
        ("completed", {"cached_tokens": "many"}, "$.cached_tokens"),
        ("failed", {"why": 5}, "$.why"),
    ],
)
def test_feedback_that_is_none_says_where(narrow: Asker, kind: str, body: Any, where: str) -> None:
    answer = narrow.post(f"/v1/requests/nobody/{kind}", body)
    assert (answer.status, answer.error["where"]) == (400, where)


def test_a_path_and_a_method_that_are_none_are_told_as_errors_are(narrow: Asker) -> None:
    assert (narrow.get("/v2").status, narrow.get("/v2").error["type"]) == (404, "not_found")
    wrong = narrow.get("/v1/score")
    assert (wrong.status, wrong.error["type"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")


def test_a_text_without_a_tokenizer_is_refused_for_scores_and_chosen_for_by_load(narrow: Asker) -> None:
    question = {"model": MODEL, "prompt": "hello"}
    assert narrow.post("/v1/score", question).status == 400
    choice = narrow.post("/v1/choose", question)
    assert choice.status == 200 and choice.body["reason"]


def test_a_fleet_that_is_full_says_when_to_ask_again() -> None:
    backend = EmbeddedBackend(choosing=ChoosingConfig(queue_requests_max=0))
    fill(backend)
    with served(backend) as asker:
        answers = [asker.post("/v1/choose", {"model": MODEL, "token_ids": PROMPT}) for _ in range(9)]
    assert [answer.status for answer in answers] == [200] * 8 + [503]  # four for each of two pods
    assert answers[-1].error["type"] == "overloaded"
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_an_answer_that_does_not_come_is_told_of_and_so_is_what_nobody_foresaw() -> None:
    class Stuck(EmbeddedBackend):
        async def score_async(self, *prompt: Any, **asked: Any) -> Any:
            import asyncio

            if asked["model"] == "broken":
                raise ZeroDivisionError("a secret")
            await asyncio.Event().wait()

    with served(Stuck(), GatewayConfig(limits=LIMITS)) as asker:
        late = asker.post("/v1/score", {"model": MODEL, "token_ids": PROMPT})
        assert (late.status, late.error["type"]) == (504, "timeout")
        broken = asker.post("/v1/score", {"model": "broken", "token_ids": PROMPT})
        assert (broken.status, broken.error["type"]) == (500, "internal")
        assert "secret" not in broken.error["message"]
        assert b'kvatlas_gateway_refusals_total{why="broken"} 1.0' in asker.get("/metrics").body


def test_bodies_of_all_requests_together_are_bounded() -> None:
    body = msgspec.json.encode({"model": MODEL, "token_ids": PROMPT})
    limits = GatewayLimits(body_bytes_max=BODY_BYTES_MAX, bodies_bytes_max=1024, body_s_max=30)
    backend = EmbeddedBackend()
    fill(backend)
    with served(backend, GatewayConfig(limits=limits)) as asker:
        refused = asker.post("/v1/score", body + b" " * 1024)
        assert (refused.status, refused.error["type"]) == (503, "overloaded")
        assert asker.post("/v1/score", body).status == 200  # what was taken has been given back
