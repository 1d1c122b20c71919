"""The gRPC services, called by clients compiled from the .proto files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvatlas.cluster.config.gateway_config import GatewayConfig, GatewayLimits
from kvatlas.cluster.gateway.rpc.schemas import DEFINITIONS
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.tokenize.service.wire.definition import Definition
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.cluster.gateway.rig import BLOCK_SIZE, MODEL, PROMPT, EmbeddedBackend, fill, stored
from tests.cluster.gateway.rpc_rig import LISTEN, Stub, compiled_file, served_rpc
from tests.tokenize.service.calling import code_of


@pytest.fixture
def address(backend: EmbeddedBackend) -> Iterator[str]:
    with served_rpc(backend) as made:
        yield made


@pytest.fixture
def stub(address: str) -> Stub:
    return Stub(address, "gateway.proto")


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.file.name)
def test_the_file_for_readers_says_what_the_messages_are(definition: Definition) -> None:
    ours = definition.file
    compiled = compiled_file(ours.name)
    for message in compiled.message_type:
        for field in (*message.field, *(field for inner in message.nested_type for field in inner.field)):
            field.ClearField("json_name")  # the compiler states the default
    assert compiled == ours


@pytest.mark.slow
def test_a_client_of_llm_d_gets_scores_of_a_text(
    address: str, backend: EmbeddedBackend, gateway_tokenizers: Tokenizers
) -> None:
    ids = gateway_tokenizers.tokenize(MODEL, prompt="x" * 64).token_ids.tolist()
    for number, pod in enumerate(("pod-x", "pod-y")):
        blocks = len(ids) // BLOCK_SIZE - number
        batch = stored(list(range(1, blocks + 1)), ids[: blocks * BLOCK_SIZE])
        backend.atlas.ingest(f"kv@{pod}@{MODEL}".encode(), 0, batch)
    stub = Stub(address, "indexer.proto")
    answer = stub.call("GetPodScores", prompt="x" * 64, model_name=MODEL)
    assert [(one.pod, one.score) for one in answer.scores] == [("pod-x", 4.0), ("pod-y", 3.0)]
    fewer = stub.call("GetPodScores", prompt="x" * 64, model_name=MODEL, pod_identifiers=["pod-y", "nobody"])
    assert [one.pod for one in fewer.scores] == ["pod-y"]
    assert not stub.call("GetPodScores", prompt="x", model_name=MODEL).scores


def test_scores_are_those_of_the_atlas(stub: Stub, backend: EmbeddedBackend) -> None:
    answer = stub.call("Score", prompt={"model": MODEL, "token_ids": PROMPT})
    assert dict(answer.scores) == dict(backend.atlas.score(PROMPT, model=MODEL))
    assert answer.workers[0].pod == "pod-a" and dict(answer.workers[0].tier_blocks) == {"gpu": 5}
    assert answer.is_whole and answer.block_size_tokens == BLOCK_SIZE


def test_a_choice_goes_through_its_life(stub: Stub, backend: EmbeddedBackend) -> None:
    prompt = {"model": MODEL, "token_ids": PROMPT}
    choice = stub.call("Choose", prompt=prompt, request_id="r1")
    assert (choice.pod, choice.url, choice.is_reserved) == ("pod-a", "http://pod-a:8000", True)
    assert not choice.HasField("decode")
    stub.call("PrefillDone", request_id="r1")
    stub.call("Produced", request_id="r1", tokens=0)
    assert stub.call("Completed", request_id="r1", cached_tokens=64).request_id == "r1"
    assert backend.chooser.statistics().in_flight == 0
    receipt = msgspec.json.decode(stub.call("GetReceipt", request_id="r1").receipt_json)
    assert (receipt["outcome"], receipt["actual_cached_tokens"]) == ("completed", 64)
    other = stub.call("Choose", prompt=prompt, labels={"zone": "b"}, reserve=False)
    assert (other.pod, other.is_reserved) == ("pod-b", False)
    failed = stub.call("Choose", prompt=prompt)
    stub.call("Failed", request_id=failed.request_id, why="gone")
    assert backend.chooser.statistics().failed == 1


def test_a_chat_is_given_as_the_body_of_a_chat_completion(stub: Stub) -> None:
    body = '{"model": "ignored", "messages": [{"role": "user", "content": "hi"}], "temperature": 1}'
    choice = stub.call("Choose", prompt={"model": MODEL, "chat_json": body})
    assert choice.prompt_tokens > 0 and not choice.reason


def test_pods_are_listed(stub: Stub) -> None:
    pods = {pod.pod: pod for pod in stub.call("ListPods").pods}
    assert set(pods) == {"pod-a", "pod-b"} and dict(pods["pod-b"].labels) == {"zone": "b"}


@pytest.mark.parametrize(
    ("method", "fields", "code", "message"),
    [
        ("Score", {"prompt": {"model": MODEL, "token_ids": [1], "text": "x"}}, "INVALID_ARGUMENT", "one of"),
        ("Score", {"prompt": {"model": MODEL, "chat_json": "["}}, "INVALID_ARGUMENT", "chat_json"),
        ("Score", {"prompt": {"model": MODEL, "token_ids": [1]}, "strategy": "x"}, "INVALID_ARGUMENT", "x"),
        ("Score", {"prompt": {"model": MODEL, "chat_json": "{}"}}, "INVALID_ARGUMENT", "messages"),
        ("Choose", {"prompt": {"model": "other", "token_ids": [1]}}, "NOT_FOUND", "other"),
        ("Completed", {"request_id": "nobody"}, "NOT_FOUND", "nobody"),
        ("GetReceipt", {"request_id": "nobody"}, "NOT_FOUND", "nobody"),
    ],
)
def test_what_cannot_be_answered_ends_with_a_status(
    stub: Stub, method: str, fields: dict[str, object], code: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.call(method, **fields)
    assert code_of(caught.value).name == code
    assert isinstance(caught.value, grpc.Call) and message in (caught.value.details() or "")


def test_a_fleet_that_is_full_says_when_to_ask_again() -> None:
    backend = EmbeddedBackend(choosing=ChoosingConfig(queue_requests_max=0))
    fill(backend)
    prompt = {"model": MODEL, "token_ids": PROMPT}
    with served_rpc(backend) as address:
        stub = Stub(address, "gateway.proto")
        for _ in range(8):
            stub.call("Choose", prompt=prompt)
        with pytest.raises(grpc.RpcError) as caught:
            stub.call("Choose", prompt=prompt)
    assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(caught.value, grpc.Call)
    said: Any = caught.value.trailing_metadata()
    trailing = dict(said)
    assert trailing["kvatlas-error-type"] == "overloaded" and int(trailing["retry-after-ms"]) >= 1


def test_a_token_is_asked_for_and_the_rate_is_its_own(backend: EmbeddedBackend, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("one first-token\ntwo second-token\n", encoding="utf-8")
    limits = GatewayLimits(requests_per_s=0.001, burst_requests=2)
    config = GatewayConfig(tokens_file=str(tokens), grpc=LISTEN, limits=limits)
    with served_rpc(backend, config) as address:
        for token, codes in (
            ("", ["UNAUTHENTICATED"]),
            ("wrong", ["UNAUTHENTICATED"]),
            ("first-token", ["OK", "OK", "RESOURCE_EXHAUSTED"]),
            ("second-token", ["OK"]),
        ):
            stub = Stub(address, "gateway.proto", token)
            assert [_code(stub) for _ in codes] == codes


def _code(stub: Stub) -> str:
    try:
        stub.call("ListPods")
    except grpc.RpcError as error:
        return code_of(error).name
    return "OK"


def test_health_is_told_for_both_services(address: str) -> None:
    channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
    for service in ("", "indexer.v1.IndexerService", "kvatlas.v1.GatewayService"):
        request = health_pb2.HealthCheckRequest(service=service)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(request, timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
