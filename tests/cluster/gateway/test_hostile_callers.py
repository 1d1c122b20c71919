"""Callers who mean harm, over HTTP and gRPC: who guesses others' requests, floods, or lies about lengths."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from kvatlas.cluster.config.gateway_config import GatewayConfig, GatewayLimits
from tests.cluster.gateway.rig import MODEL, PROMPT, Asker, EmbeddedBackend, fill, served
from tests.cluster.gateway.rpc_rig import LISTEN, Stub, served_rpc

_BOMB = '{"messages":[' + "[]," * 20_000 + "[]]}"
QUESTION = {"model": MODEL, "token_ids": PROMPT}


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    file = tmp_path / "tokens"
    file.write_text("one first-token\ntwo second-token\n", encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"labels": {"a": "x" * 600}}, "labels"),
        ({"labels": {str(i): "x" for i in range(65)}}, "labels"),
        ({"near": {"x" * 600: "a"}}, "near"),
        ({"lora": "x" * 100_000}, "lora"),
        ({"cache_salt": "x" * 100_000}, "cache_salt"),
        ({"model": "x" * 100_000}, "model"),
        ({"request_id": "x" * 1025}, "$.request_id"),
        ({"request_id": "a\r\nx-evil: 1"}, "$.request_id"),
        ({"request_id": "a\n"}, "$.request_id"),
        ({"request_id": "\0"}, "$.request_id"),
        ({"session": "x" * 1025}, "$.session"),
        ({"output_tokens": 1 << 40}, "output_tokens"),
        ({"role": "chief"}, "$.role"),
        ({"features": [["a", -1, 2]]}, "$.features[0][1]"),
        ({"labels": {"a": 1}}, "$.labels[...]"),
    ],
)
def test_what_would_be_remembered_is_bounded(asker: Asker, asked: dict[str, Any], where: str) -> None:
    answer = asker.post("/v1/choose", {**QUESTION, **asked})
    assert (answer.status, answer.error["where"]) == (400, where), answer


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model":"small","token_ids":[1],"x":NaN}', 400),
        (b'{"model":"small","token_ids":[1],"output_tokens":1e999}', 400),
        (b'{"model":"small","token_ids":[1],"x":' + b"9" * 100_000 + b"}", 200),
        (b'{"model":"nobody","token_ids":[1],"model":"small"}', 200),
        (b'{"model":"small","token_ids":[1],' + b",".join(b'"%d":0' % i for i in range(100_000)) + b"}", 200),
        (b'{"model":"\\ud800","token_ids":[1]}', 400),
        (b'{"model":"small","token_ids":[1]}{}', 400),
        (b'\xef\xbb\xbf{"model":"small","token_ids":[1]}', 400),
        ("{}".encode("utf-16"), 400),
    ],
)
def test_json_of_strange_shapes_is_read_once_or_refused(asker: Asker, body: bytes, status: int) -> None:
    assert asker.post("/v1/choose", body).status == status


def test_names_of_pods_that_nobody_has_are_not_kept(backend: EmbeddedBackend) -> None:
    with served(backend) as asker:
        pods = [f"nobody{i}" for i in range(50_000)]
        assert asker.post("/v1/choose", {**QUESTION, "pods": pods}).status == 404
        chosen = asker.post("/v1/choose", {**QUESTION, "pods": [*pods, "pod-b"], "request_id": "r"})
        assert (chosen.status, chosen.body["pod"]) == (200, "pod-b")
        record = backend.chooser._tracking._ring.find("r", "")
        assert record is not None and record.ask.pods == {"pod-b"}


@pytest.mark.slow
def test_the_longest_prompt_that_fits_is_answered(backend: EmbeddedBackend) -> None:
    body = {"model": MODEL, "token_bytes": base64.b64encode(os.urandom(4 * 1_000_000)).decode()}
    with served(backend) as asker:
        for path in ("score", "choose", "explain"):
            assert asker.post(f"/v1/{path}", body).status == 200
        assert asker.post("/v1/score", {"model": MODEL, "token_ids": [1] * 2_000_000}).status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/score/", 404),
        ("//v1/score", 404),
        ("/v1/receipts/", 404),
        ("/v1/receipts/../../etc/passwd", 404),
        ("/v1/receipts/%00", 404),
        ("/v1/receipts/%ff%fe", 404),
        ("/v1/receipts/a%0d%0ax:%20y", 404),
        ("/v1/receipts/" + "a" * 50_000, 404),
        ("/metrics/../v1/pods", 404),
    ],
)
def test_a_path_that_is_none_leads_nowhere(asker: Asker, path: str, status: int) -> None:
    answer = asker.get(path)
    assert answer.status == status and "location" not in answer.headers
    assert len(answer.body["error"]["message"]) < 1000


def test_another_tenant_can_neither_end_nor_read_nor_tell_that_there_is_a_request(
    backend: EmbeddedBackend, tokens: str
) -> None:
    with served(backend, GatewayConfig(tokens_file=tokens)) as asker:
        first, second = ({"Authorization": f"Bearer {word}-token"} for word in ("first", "second"))
        asked = {**QUESTION, "request_id": "r", "cache_salt": "salt", "session": "s"}
        assert asker.ask("POST", "/v1/choose", asked, first).status == 200
        loads = backend.chooser.loads.own()[1].sum()
        for name in ("r", "one r", "one%20r", "one%00r", "two/../r", "%6f%6ee%20r"):
            for kind in ("prefill_done", "completed", "failed", "produced"):
                body = {"tokens": 5} if kind == "produced" else {}
                refused = asker.ask("POST", f"/v1/requests/{name.replace(' ', '%20')}/{kind}", body, second)
                assert refused.status == 404
            salted = {**second, "X-Kvatlas-Cache-Salt": "salt"}
            there = asker.ask("GET", f"/v1/receipts/{name.replace(' ', '%20')}", None, salted)
            assert (there.status, there.error["type"]) == (404, "unknown_request")
        never = asker.ask("GET", "/v1/receipts/q", None, second)
        here = asker.ask("GET", "/v1/receipts/r", None, second)
        assert never.error["message"].replace("'q'", "'r'") == here.error["message"]
        # Its own request of the same id is another one.
        assert asker.ask("POST", "/v1/choose", {**QUESTION, "request_id": "r"}, second).status == 200
        assert asker.ask("POST", "/v1/requests/r/failed", {}, second).status == 200
        assert asker.ask("POST", "/v1/requests/r/failed", {}, second).status == 404
        assert backend.chooser.loads.own()[1].sum() == loads
        assert asker.ask("POST", "/v1/requests/r/completed", {}, first).status == 200
        assert backend.chooser.statistics().loads["reservations"] == 0


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer ",
        "bearer  wrong",
        "Basic Zmlyc3Q6",
        "first-token",
        "Bearer first-token x",
        "Bearer \xff",
    ],
)
def test_a_token_is_right_or_wrong(backend: EmbeddedBackend, tokens: str, authorization: str) -> None:
    with served(backend, GatewayConfig(tokens_file=tokens)) as asker:
        assert asker.ask("GET", "/v1/pods", None, {"Authorization": authorization}).status == 401


def test_requests_that_two_parsers_read_in_two_ways_are_refused(asker: Asker) -> None:
    head = b"POST /v1/choose HTTP/1.1\r\nHost: a\r\n"
    for framing in (
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999999999\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ):
        assert asker.raw(head + framing + b"\r\n0\r\n\r\n").split(b" ", 2)[1] == b"400"


def test_an_address_that_floods_is_forgotten_in_its_turn_and_others_are_served(
    backend: EmbeddedBackend,
) -> None:
    limits = GatewayLimits(requests_per_s=0.01, burst_requests=5)
    with served(backend, GatewayConfig(limits=limits)) as asker:
        answers = [asker.post("/v1/choose", QUESTION).status for _ in range(30)]
        assert answers == [200] * 5 + [429] * 25
        assert backend.chooser.statistics().choices == 5
        assert asker.get("/healthz").status == 200


def test_callers_who_go_away_amid_everything_leave_no_bytes_behind(backend: EmbeddedBackend) -> None:
    limits = GatewayLimits(body_bytes_max=1 << 20, bodies_bytes_max=2 << 20)
    with served(backend, GatewayConfig(limits=limits)) as asker:
        for n in range(60):
            with socket.create_connection(("127.0.0.1", asker.port)) as connection:
                connection.sendall(b"POST /v1/choose HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n")
                connection.sendall(b"x" * 10_000 * (n % 10))
        # Had any of theirs been kept, there would be no room for these by now.
        padded = msgspec.json.encode(QUESTION) + b" " * 900_000
        assert [asker.post("/v1/score", padded).status for _ in range(5)] == [200] * 5


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    backend = EmbeddedBackend()
    fill(backend)
    limits = GatewayLimits(body_bytes_max=64 << 10, containers_max=1000)
    with served_rpc(backend, GatewayConfig(grpc=LISTEN, limits=limits)) as made:
        yield made


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("Choose", {"prompt": {"model": "other", "token_ids": [1]}}, "NOT_FOUND"),
        ("Choose", {"prompt": {"model": MODEL, "token_ids": [1], "pods": ["nobody"]}}, "NOT_FOUND"),
        ("Choose", {"prompt": {"model": MODEL}}, "INVALID_ARGUMENT"),
        ("Choose", {}, "INVALID_ARGUMENT"),
        ("Choose", {"prompt": {"model": MODEL, "token_bytes": b"abc"}}, "INVALID_ARGUMENT"),
        ("Choose", {"prompt": {"model": MODEL, "token_ids": [1], "text": "x"}}, "INVALID_ARGUMENT"),
        ("Choose", {"prompt": {"model": MODEL, "chat_json": "[" * 30_000}}, "INVALID_ARGUMENT"),
        ("Choose", {"prompt": {"model": MODEL, "chat_json": '{"messages":5}'}}, "INVALID_ARGUMENT"),
        ("Choose", {"prompt": {"model": MODEL, "chat_json": _BOMB}}, "INVALID_ARGUMENT"),
        ("Choose", {"prompt": {"model": MODEL, "token_ids": [1]}, "role": "chief"}, "INVALID_ARGUMENT"),
        ("Choose", {"prompt": {"model": MODEL, "token_ids": [1]}, "request_id": "a\n"}, "INVALID_ARGUMENT"),
        (
            "Choose",
            {"prompt": {"model": MODEL, "token_ids": [1]}, "labels": {"a": "x" * 600}},
            "INVALID_ARGUMENT",
        ),
        ("Choose", {"prompt": {"model": MODEL, "token_ids": [1], "lora": "x" * 5000}}, "INVALID_ARGUMENT"),
        (
            "Choose",
            {"prompt": {"model": MODEL, "token_ids": [1]}, "output_tokens": 1 << 63},
            "INVALID_ARGUMENT",
        ),
        ("Score", {"prompt": {"model": MODEL, "token_ids": [1]}, "strategy": "best"}, "INVALID_ARGUMENT"),
        ("Produced", {"request_id": "x", "tokens": (1 << 64) - 1}, "INVALID_ARGUMENT"),
        ("Completed", {"request_id": "x" * 5000}, "NOT_FOUND"),
        ("Completed", {"request_id": "\r\n\0"}, "NOT_FOUND"),
        ("Failed", {"request_id": "x", "why": "w" * 2000}, "INVALID_ARGUMENT"),
        ("GetReceipt", {"request_id": "", "cache_salt": "\0"}, "NOT_FOUND"),
        ("Score", {"prompt": {"model": MODEL, "token_ids": [1] * 100_000}}, "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_call_that_cannot_be_is_refused_with_its_code(
    address: str, method: str, fields: dict[str, Any], code: str
) -> None:
    stub = Stub(address, "gateway.proto")
    with pytest.raises(grpc.RpcError) as refused:
        stub.call(method, **fields)
    assert refused.value.code().name == code
    assert len(refused.value.details() or "") < 1000
    assert stub.call("Score", prompt={"model": MODEL, "token_ids": PROMPT}).prompt_blocks == 5


def test_bytes_that_are_no_message_are_refused(address: str) -> None:
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        for payload in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x7f", b"\x08" * 1000):
            call: Any = channel.unary_unary("/kvatlas.v1.GatewayService/Choose", bytes, bytes)
            with pytest.raises(grpc.RpcError) as refused:
                call(payload, timeout=60)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
