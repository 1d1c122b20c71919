"""The service under load and at its end: who is refused, who waits, what a stop leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvatlas.index.errors import OverloadedError
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.calling import PATIENCE_S, Caller, GatedTokenizers, code_of, wait_until
from tests.tokenize.service.compiled import compiled_class

WORKERS = ServiceConfig(listen=(":0",), threads=2, waiting_max=3)


@pytest.fixture
def gated(tokenizers: Tokenizers) -> Iterator[GatedTokenizers]:
    made = GatedTokenizers(tokenizers)
    yield made
    made.gate.set()


@pytest.fixture
def server(gated: GatedTokenizers) -> Iterator[TokenizationServer]:
    made = TokenizationServer(gated, WORKERS)
    yield made
    gated.gate.set()
    made.stop(0)


def full(server: TokenizationServer, caller: Caller) -> list[Any]:
    """Calls that take all threads, then all room to wait."""
    calls = [caller.begin("RenderCompletion", model_name="small", prompt="a") for _ in range(2)]
    wait_until(lambda: server.statistics().running == 2)
    calls += [caller.begin("RenderCompletion", model_name="small", prompt="a") for _ in range(3)]
    wait_until(lambda: server.statistics().waiting == 3)
    return calls


def test_call_beyond_all_room_is_refused_at_once_and_the_others_are_answered(
    server: TokenizationServer, gated: GatedTokenizers
) -> None:
    (address,) = server.start()
    with Caller(address) as caller:
        calls = full(server, caller)
        assert server.statistics().running == 2
        with pytest.raises(grpc.RpcError, match="expected fewer than 3 requests to wait") as caught:
            caller.call("RenderCompletion", model_name="small", prompt="a")
        assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
        gated.gate.set()
        assert all(call.result(PATIENCE_S).success for call in calls)
    counts = server.statistics()
    assert (counts.answered, counts.refused, counts.calls["RenderCompletion"]) == (5, 1, 6)
    wait_until(lambda: server.statistics().waiting_bytes == 0)
    assert server.statistics().running == 0


def test_health_is_told_while_all_threads_are_taken(
    server: TokenizationServer, gated: GatedTokenizers
) -> None:
    (address,) = server.start()
    with Caller(address) as caller:
        calls = full(server, caller)
        health: Any = health_pb2_grpc.HealthStub(caller.channel)
        response = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        gated.gate.set()
        assert all(call.result(PATIENCE_S).success for call in calls)


def test_waiting_call_ends_with_its_deadline_or_its_client(
    server: TokenizationServer, gated: GatedTokenizers
) -> None:
    (address,) = server.start()
    with Caller(address) as caller:
        calls = [caller.begin("RenderCompletion", model_name="small", prompt="a") for _ in range(2)]
        wait_until(lambda: server.statistics().running == 2)
        hasty = caller.begin("RenderCompletion", timeout_s=2.0, model_name="small", prompt="a")
        given_up = caller.begin("RenderCompletion", model_name="small", prompt="a")
        wait_until(lambda: server.statistics().waiting == 2)
        given_up.cancel()
        assert hasty.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(lambda: server.statistics().late == 2)
        gated.gate.set()
        assert all(call.result(PATIENCE_S).success for call in calls)
        wait_until(lambda: server.statistics().waiting == 0)
        begun = sum(gated.inside.acquire(blocking=False) for _ in range(5))
        assert begun == 2  # nothing was done for those who had gone


def test_call_without_deadline_ends_after_the_configured_time(gated: GatedTokenizers) -> None:
    config = ServiceConfig(listen=(":0",), threads=1, waiting_max=1, answer_s_max=0.5)
    server = TokenizationServer(gated, config)
    (address,) = server.start()
    with Caller(address) as caller:
        request = compiled_class("RenderCompletionRequest")(model_name="small", prompt="a")
        for _ in ("one that hangs", "one that waits for its thread"):
            with pytest.raises(grpc.RpcError, match="expected an answer in time") as caught:
                caller.method("RenderCompletion")(request)
            assert code_of(caught.value) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert server.statistics().running == 1
        assert server.statistics().late == 2
    server.stop(0)


def test_models_that_hang_leave_a_thread_to_those_that_are_loaded(
    server: TokenizationServer, gated: GatedTokenizers
) -> None:
    (address,) = server.start()
    with Caller(address) as caller:
        hanging = caller.begin("InitializeTokenizer", model_name="hanging")
        assert gated.inside.acquire(timeout=PATIENCE_S)
        waits = caller.begin("InitializeTokenizer", model_name="hanging")
        wait_until(lambda: server.statistics().waiting == 1)
        assert caller.call("InitializeTokenizer", model_name="small").success
        assert server.statistics().running == 1
        gated.gate.set()
        for call in (hanging, waits):
            assert "'hanging'" in call.result(PATIENCE_S).error_message


@pytest.mark.slow
def test_request_or_answer_that_is_too_long_is_refused_and_the_service_goes_on(
    tokenizers: Tokenizers,
) -> None:
    config = ServiceConfig(listen=(":0",), message_bytes_max=4096)
    server = TokenizationServer(tokenizers, config)
    (address,) = server.start()
    with Caller(address) as caller:
        # 5000 bytes of text; 3000 that become more than 4096 of ids and offsets.
        for text in ("x" * 5000, "é" * 1500):
            with pytest.raises(grpc.RpcError) as caught:
                caller.call("Tokenize", model_name="small", input=text)
            assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caller.call("Tokenize", model_name="small", input="x").success
    server.stop(0)


@pytest.mark.slow
def test_text_or_chat_beyond_the_limits_of_tokenizers_is_an_answer(tokenizers: Tokenizers) -> None:
    with TokenizationServer(tokenizers, ServiceConfig(listen=(":0",))) as server:
        with Caller(server.addresses[0]) as caller:
            message = {"role": "user", "content": "a"}
            for got in (
                caller.call("Tokenize", model_name="small", input="x" * (33 << 20)),
                caller.call("RenderCompletion", model_name="small", prompt="x" * (33 << 20)),
                caller.call("RenderChatCompletion", model_name="small", messages=[message] * 100_000),
            ):
                assert not got.success
                assert "expected at most 8388608" in got.error_message or "got 100000" in got.error_message
        assert server.statistics().failed == 3


def test_bytes_of_requests_are_bounded(gated: GatedTokenizers) -> None:
    config = ServiceConfig(listen=(":0",), threads=2, waiting_bytes_max=1000)
    server = TokenizationServer(gated, config)
    (address,) = server.start()
    with Caller(address) as caller:
        first = caller.begin("RenderCompletion", model_name="small", prompt="a" * 900)
        wait_until(lambda: server.statistics().running == 1)
        with pytest.raises(grpc.RpcError, match="at most 1000 bytes of requests") as caught:
            caller.call("RenderCompletion", model_name="small", prompt="a" * 200)
        assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
        gated.gate.set()
        assert first.result(PATIENCE_S).success
    server.stop(0)


def test_failure_of_the_service_itself_ends_one_call(
    server: TokenizationServer, gated: GatedTokenizers, caplog: pytest.LogCaptureFixture
) -> None:
    gated.chat_error = ZeroDivisionError("small")
    gated.gate.set()
    (address,) = server.start()
    with Caller(address) as caller:
        with pytest.raises(grpc.RpcError, match="the service failed with ZeroDivisionError") as caught:
            caller.call("RenderChatCompletion", model_name="small")
        assert code_of(caught.value) is grpc.StatusCode.INTERNAL
        assert "a RenderChatCompletion request has failed" in caplog.text
        assert caller.call("RenderCompletion", model_name="small", prompt="a").success
    assert server.statistics().broken == 1


def test_full_tokenizers_are_told_as_a_full_service(
    server: TokenizationServer, gated: GatedTokenizers
) -> None:
    gated.chat_error = OverloadedError("the pool is full")
    (address,) = server.start()
    with Caller(address) as caller, pytest.raises(grpc.RpcError, match="the pool is full") as caught:
        caller.call("RenderChatCompletion", model_name="small")
    assert code_of(caught.value) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.statistics().refused == 1


def test_stop_lets_running_calls_end_and_takes_no_more(gated: GatedTokenizers, socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    server = TokenizationServer(gated, ServiceConfig(listen=(f"unix:{path}",)))
    (address,) = server.start()
    with Caller(address) as caller:
        stub: Any = health_pb2_grpc.HealthStub(caller.channel)
        health = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        running = caller.begin("RenderCompletion", model_name="small", prompt="a")
        assert gated.inside.acquire(timeout=PATIENCE_S)
        stopping = threading.Thread(target=server.stop, args=(PATIENCE_S,))
        stopping.start()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not server.wait(0)
        gated.gate.set()
        assert running.result(PATIENCE_S).success
        stopping.join(PATIENCE_S)
        assert server.wait(PATIENCE_S)
        with pytest.raises(grpc.RpcError) as caught:
            caller.call("RenderCompletion", model_name="small", prompt="a")
        assert code_of(caught.value) is grpc.StatusCode.UNAVAILABLE
    assert not path.exists()
    server.stop()


def test_stop_cuts_calls_that_do_not_end_in_time(gated: GatedTokenizers) -> None:
    server = TokenizationServer(gated, ServiceConfig(listen=(":0",), grace_s=0.05))
    (address,) = server.start()
    with Caller(address) as caller:
        running = caller.begin("RenderCompletion", model_name="small", prompt="a")
        assert gated.inside.acquire(timeout=PATIENCE_S)
        server.stop()
        assert running.code() is not grpc.StatusCode.OK
    # The call's thread does not wait for the work: the interpreter would wait for the thread.
    wait_until(lambda: not any(t.name.startswith("tokenization calls") for t in threading.enumerate()))
