"""Services that hang, die, or talk nonsense: one clear error each, in time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import grpc
import pytest

from kvatlas.index.errors import ConfigError, OverloadedError, TokenizerError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import SidecarConfig
from kvatlas.tokenize.prompt import TokenizedPrompt
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.service.sidecar import SidecarSource, SidecarTokenizer
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.calling import PATIENCE_S, RESPONSES, GatedTokenizers, wait_until
from tests.tokenize.service.compiled import foreign_class
from tests.tokenize.service.foreign_service import Answer, foreign_answers, serving

CHAT = Chat(messages=[{"role": "user", "content": "a"}])


def find(address: str, timeout_s: float = PATIENCE_S) -> SidecarTokenizer:
    tokenizer = SidecarSource(SidecarConfig(address=address, timeout_s=timeout_s)).find("small")
    assert tokenizer is not None
    return tokenizer


@contextmanager
def peer(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that accepts connections and is no gRPC service."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            try:
                behave(connection)
            except OSError:
                continue

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_S)
        for connection in connections:
            connection.close()


def test_service_that_accepts_and_never_answers_is_given_up_at_the_deadline() -> None:
    def hang(_connection: socket.socket) -> None:
        pass

    with (
        peer(hang) as address,
        pytest.raises(TokenizerError, match=r"InitializeTokenizer: expected an answer"),
    ):
        find(address, timeout_s=0.3)


def test_service_that_hangs_in_a_call_is_given_up_at_the_deadline(tokenizers: Tokenizers) -> None:
    gated = GatedTokenizers(tokenizers)
    with TokenizationServer(gated, ServiceConfig(listen=(":0",), grace_s=0)) as server:
        tokenizer = find(server.addresses[0], timeout_s=1.5)
        with pytest.raises(TokenizerError, match=r"expected an answer within 1.5 s, got none"):
            tokenizer.encode("a")
        assert tokenizer.statistics().counts["too_late"] == 1
        assert tokenizer.encode_chat(CHAT).token_ids.size  # others are answered
        gated.gate.set()
        tokenizer.close()


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 4096, b"\xff" * 100, bytes(range(256)) * 400],
)
def test_peer_that_talks_nonsense_is_an_error(garbage: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(garbage)

    with (
        peer(talk) as address,
        pytest.raises(TokenizerError, match="InitializeTokenizer: expected an answer"),
    ):
        find(address, timeout_s=2.0)


def test_peer_that_hangs_up_is_an_error() -> None:
    with (
        peer(lambda connection: connection.close()) as address,
        pytest.raises(TokenizerError, match="InitializeTokenizer: expected an answer"),
    ):
        find(address, timeout_s=2.0)


def test_nobody_there_is_an_error() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TokenizerError, match="got UNAVAILABLE"):
        find(f"127.0.0.1:{port}")
    with pytest.raises(TokenizerError, match="got UNAVAILABLE"):
        find("unix:/nonexistent/socket")


def test_bad_address_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"^sidecar.address: expected unix:PATH or HOST:PORT"):
        find("nowhere")


def changed(tokenizers: Tokenizers, **answers: Answer) -> dict[str, Answer]:
    return {**foreign_answers(tokenizers), **answers}


def response(name: str, **fields: Any) -> Answer:
    message = foreign_class(RESPONSES[name])(**fields)
    return lambda _request, _context: message


def test_answer_without_success_is_an_error_even_without_reason(tokenizers: Tokenizers) -> None:
    answers = changed(tokenizers, RenderCompletion=response("RenderCompletion", token_ids=[1, 2]))
    with serving(answers) as address:
        tokenizer = find(address)
        with pytest.raises(TokenizerError, match="no success, and no reason"):
            tokenizer.encode("a")
        assert tokenizer.statistics().counts["errors_told"] == 1
        tokenizer.close()


def test_features_that_cannot_be_are_an_error(tokenizers: Tokenizers) -> None:
    features = {
        "mm_hashes": {"image": {"values": ["a"]}},
        "mm_placeholders": {"image": {"ranges": [{"offset": 2, "length": 9}]}},
    }
    bad = response("RenderChatCompletion", success=True, token_ids=[1, 2, 3], features=features)
    with serving(changed(tokenizers, RenderChatCompletion=bad)) as address:
        tokenizer = find(address)
        with pytest.raises(TokenizerError, match="placeholders one after the other within 3 tokens"):
            tokenizer.encode_chat(CHAT)
        tokenizer.close()


def test_features_of_a_service_are_those_of_the_prompt(tokenizers: Tokenizers) -> None:
    features = {
        "mm_hashes": {"image": {"values": ["a"]}},
        "mm_placeholders": {"image": {"ranges": [{"offset": 1, "length": 2}]}},
    }
    good = response("RenderChatCompletion", success=True, token_ids=[1, 2, 3], features=features)
    with serving(changed(tokenizers, RenderChatCompletion=good)) as address:
        tokenizer = find(address)
        assert tokenizer.encode_chat(CHAT).features == (("a", 1, 2),)
        tokenizer.close()


def test_bytes_that_are_no_answer_are_an_error() -> None:
    class Nonsense:
        def SerializeToString(self) -> bytes:  # noqa: N802  (protobuf's name)
            return b"\xff\xff\xff"

    with (
        serving({"InitializeTokenizer": lambda _request, _context: Nonsense()}) as address,
        pytest.raises(TokenizerError, match="InitializeTokenizer: expected an answer, got INTERNAL"),
    ):
        find(address)


def test_full_service_is_an_overloaded_error(tokenizers: Tokenizers) -> None:
    gated = GatedTokenizers(tokenizers)
    config = ServiceConfig(listen=(":0",), threads=1, waiting_max=1, grace_s=0)
    with TokenizationServer(gated, config) as server, ThreadPoolExecutor(2) as pool:
        asking, asked = find(server.addresses[0]), find(server.addresses[0])
        running = pool.submit(asking.encode, "a")
        assert gated.inside.acquire(timeout=PATIENCE_S)
        waiting = pool.submit(asking.encode, "b")
        wait_until(lambda: server.statistics().waiting == 1)
        with pytest.raises(OverloadedError, match="expected fewer than 1 requests to wait"):
            asked.encode("c")
        assert asked.statistics().counts["overloaded"] == 1
        with pytest.raises(TokenizerError, match="requests to wait"):
            find(server.addresses[0])  # a search goes on elsewhere
        gated.gate.set()
        for future in (running, waiting):
            assert future.result(PATIENCE_S).token_ids.size
        assert asked.encode("c").token_ids.size
        asking.close()
        asked.close()


def until_answered(ask: Callable[[], TokenizedPrompt]) -> TokenizedPrompt:
    answers: list[TokenizedPrompt] = []

    def is_answered() -> bool:
        try:
            answers.append(ask())
        except TokenizerError:
            return False
        return True

    wait_until(is_answered)
    return answers[0]


def test_service_that_comes_back_is_found_again(tokenizers: Tokenizers) -> None:
    server = TokenizationServer(tokenizers, ServiceConfig(listen=(":0",)))
    (address,) = server.start()
    tokenizer = find(address)
    assert tokenizer.encode("a").token_ids.size
    server.stop(0)
    with pytest.raises(TokenizerError, match="got UNAVAILABLE"):
        tokenizer.encode("a")
    again = TokenizationServer(tokenizers, ServiceConfig(listen=(address,)))
    again.start()
    assert until_answered(lambda: tokenizer.encode("a")).token_ids.size
    tokenizer.close()
    again.stop(0)


@pytest.mark.parametrize("is_lenient", [False, True])
def test_service_that_is_replaced_by_one_that_skips_whole_chats_gives_no_wrong_ids(
    tokenizers: Tokenizers, is_lenient: bool
) -> None:
    """It finds a chat without messages, and refuses as llm-d's does, or even gives ids."""
    server = TokenizationServer(tokenizers, ServiceConfig(listen=(":0",)))
    (address,) = server.start()
    tokenizer = find(address)
    expected = tokenizer.encode_chat(CHAT).token_ids.tolist()
    server.stop(0)
    answers = foreign_answers(tokenizers)
    honest = answers["RenderChatCompletion"]
    lenient = response("RenderChatCompletion", success=True, token_ids=[7])

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        return (lenient if is_lenient and not request.messages else honest)(request, context)

    with serving({**answers, "RenderChatCompletion": answer}, address):
        assert until_answered(lambda: tokenizer.encode_chat(CHAT)).token_ids.tolist() == expected
        tokenizer.close()
