"""The client: a model of a service is the model itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kvatlas.index.errors import InputError, TemplateError, TokenizerError, UnsupportedModelError
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.config import SidecarConfig, TokenizeConfig, TokenizeLimits
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.service.sidecar import SidecarSource, SidecarTokenizer
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.service.calling import PATIENCE_S, GatedTokenizers
from tests.tokenize.service.foreign_service import foreign_answers, serving

USER = {"role": "user", "content": "hi <|turn|> é"}
CALLS = [{"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"z": 1, "y": 2}'}}]
CHATS_FOR_ALL = [
    Chat(messages=[USER]),
    Chat(messages=[USER], add_generation_prompt=False),
    Chat(messages=[USER], add_generation_prompt=False, continue_final_message=True),
    Chat(messages=[USER], tools=[{"type": "function", "function": {"name": "f", "b": 1, "a": "é"}}]),
    Chat(messages=[USER], chat_template_kwargs={"style": 5}),
    Chat(messages=[USER], documents=[{"title": "T", "text": "x"}]),
    Chat(messages=[USER], reasoning_effort="low"),
    Chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    ),
    Chat(messages=[USER, {"role": "assistant", "content": None, "tool_calls": CALLS}]),
]
CHATS_FOR_KVATLAS = [
    Chat(messages=[USER | {"name": "Ann"}]),
    Chat(messages=[USER], add_special_tokens=True),
    Chat(messages=[USER], chat_template="{{ messages | length }}<|turn|>"),
]


def source(address: str, **fields: float) -> SidecarSource:
    return SidecarSource(SidecarConfig(address=address, **fields))  # type: ignore[arg-type]


def found(address: str, **fields: float) -> SidecarTokenizer:
    tokenizer = source(address, **fields).find("small")
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer(service: str) -> Iterator[SidecarTokenizer]:
    made = found(service)
    yield made
    made.close()


@pytest.fixture(scope="module")
def foreign(tokenizers: Tokenizers) -> Iterator[SidecarTokenizer]:
    with serving(foreign_answers(tokenizers)) as address:
        made = found(address)
        yield made
        made.close()


@pytest.mark.parametrize("text", ["", "a", "é<|tool|> b", "\U0001f642" * 5, "x" * 100_000, "nul\0"])
@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_text_has_the_ids_of_the_model_by_both_kinds_of_service(
    tokenizer: SidecarTokenizer,
    foreign: SidecarTokenizer,
    tokenizers: Tokenizers,
    text: str,
    add_special_tokens: bool,
) -> None:
    expected = tokenizers.encode("small", text, add_special_tokens=add_special_tokens).token_ids.tolist()
    for asked in (tokenizer, foreign):
        prompt = asked.encode(text, add_special_tokens=add_special_tokens)
        assert prompt.token_ids.tolist() == expected
        assert prompt.token_ids.dtype == "uint32"
        assert prompt.served_by == asked.served_by


@pytest.mark.parametrize("chat", CHATS_FOR_ALL)
def test_chat_has_the_ids_of_the_model_by_both_kinds_of_service(
    tokenizer: SidecarTokenizer, foreign: SidecarTokenizer, tokenizers: Tokenizers, chat: Chat
) -> None:
    expected = tokenizers.encode_chat("small", chat).token_ids.tolist()
    for asked in (tokenizer, foreign):
        assert asked.encode_chat(chat).token_ids.tolist() == expected


@pytest.mark.parametrize("chat", CHATS_FOR_ALL + CHATS_FOR_KVATLAS)
def test_service_of_kvatlas_takes_and_renders_any_chat(
    tokenizer: SidecarTokenizer, tokenizers: Tokenizers, chat: Chat
) -> None:
    assert tokenizer.encode_chat(chat).token_ids.tolist() == (
        tokenizers.encode_chat("small", chat).token_ids.tolist()
    )
    assert tokenizer.render_chat(chat) == tokenizers.render_chat("small", chat)


def test_other_service_is_asked_nothing_that_it_would_skip(foreign: SidecarTokenizer) -> None:
    for chat in (Chat(messages=[USER | {"name": "Ann"}]), Chat(messages=[USER], add_special_tokens=True)):
        with pytest.raises(InputError, match="has a field for"):
            foreign.encode_chat(chat)
    with pytest.raises(UnsupportedModelError, match="it gives ids only"):
        foreign.render_chat(Chat(messages=[USER]))


def test_errors_keep_their_kind_and_their_words(tokenizer: SidecarTokenizer) -> None:
    with pytest.raises(TemplateError, match=r"sidecar:127.*RenderChatCompletion: .*no such role here"):
        tokenizer.encode_chat(Chat(messages=[{"role": "forbidden", "content": "x"}]))
    with pytest.raises(InputError, match="media"):
        tokenizer.encode_chat(Chat(messages=[USER], media=[Media(identifier="a", n_tokens=1)]))
    with pytest.raises(InputError, match="messages"):
        tokenizer.render_chat(Chat(messages=[]))


def test_errors_of_other_services_are_told_in_their_words(foreign: SidecarTokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"got INTERNAL: .*no such role here"):
        foreign.encode_chat(Chat(messages=[{"role": "forbidden", "content": "x"}]))


def test_bad_text_is_refused_without_asking(service: str) -> None:
    tokenizer = SidecarSource(SidecarConfig(address=service), TokenizeLimits(text_bytes_max=10)).find("small")
    assert tokenizer is not None
    before = tokenizer.statistics().counts["calls"]
    for text in ("\ud800", "x" * 11, "é" * 6, 5):
        with pytest.raises(InputError):
            tokenizer.encode(text)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode_chat(Chat(messages=[{"role": "user", "content": "\ud800"}]))
    assert tokenizer.statistics().counts["calls"] == before
    tokenizer.close()


def test_request_beyond_the_bound_is_refused_without_asking(service: str) -> None:
    tokenizer = found(service, message_bytes_max=2048)
    with pytest.raises(InputError, match="expected a request of at most 2048 bytes, got 30"):
        tokenizer.encode("x" * 3000)
    with pytest.raises(InputError, match="at most 2048 bytes"):
        tokenizer.encode_chat(Chat(messages=[USER] * 1000))
    tokenizer.close()


def test_answer_beyond_the_bound_is_an_error(service: str) -> None:
    tokenizer = found(service, message_bytes_max=2048)
    with pytest.raises(TokenizerError, match="larger than max"):
        tokenizer.encode("\U0001f642" * 400)  # 1600 bytes, each a token whose id takes two
    assert len(tokenizer.encode("a").token_ids) == 2
    tokenizer.close()


def test_model_that_the_service_has_not_is_an_error_at_once(service: str) -> None:
    with pytest.raises(TokenizerError, match=r"^InitializeTokenizer: .*'other'"):
        source(service).find("other")
    with pytest.raises(TokenizerError, match="InitializeTokenizer: model"):
        source(service).find("../x")  # an InputError of the service; to a search, a model that is not there
    with pytest.raises(TokenizerError, match="UTF-8"):
        source(service).find("\ud800")


def test_without_an_address_there_is_no_model() -> None:
    nothing = SidecarSource(SidecarConfig())
    assert nothing.find("small") is None
    assert nothing.models() == ()
    assert nothing.name == "sidecar"


@pytest.mark.slow
def test_sixteen_threads_each_get_their_own_ids(tokenizer: SidecarTokenizer, tokenizers: Tokenizers) -> None:
    def ask(number: int) -> bool:
        text = f"{number} " * (number % 50 + 1)
        if number % 2:
            got = tokenizer.encode(text)
            return bool(got.token_ids.tolist() == tokenizers.encode("small", text).token_ids.tolist())
        chat = Chat(messages=[{"role": "user", "content": text}])
        got = tokenizer.encode_chat(chat)
        return bool(got.token_ids.tolist() == tokenizers.encode_chat("small", chat).token_ids.tolist())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(800)))


def test_close_lets_running_calls_end_and_later_ones_connect_anew(tokenizers: Tokenizers) -> None:
    gated = GatedTokenizers(tokenizers)
    server = TokenizationServer(gated, ServiceConfig(listen=(":0",)))
    (address,) = server.start()
    tokenizer = found(address)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(tokenizer.encode, "a")
        assert gated.inside.acquire(timeout=PATIENCE_S)
        tokenizer.close()
        tokenizer.close()
        gated.gate.set()
        assert len(running.result(PATIENCE_S).token_ids) == 2
    assert len(tokenizer.encode("b").token_ids) == 2
    server.stop(0)


def test_tokenizers_of_another_process_are_one_of_the_places_to_look(
    service: str, tokenizers: Tokenizers
) -> None:
    config = TokenizeConfig(
        models={"mine": "small"}, order=("models", "sidecar"), sidecar=SidecarConfig(address=service)
    )
    composite = Tokenizers(config)
    expected = tokenizers.encode("small", "a b").token_ids.tolist()
    for name in ("small", "mine"):
        prompt = composite.encode(name, "a b")
        assert prompt.token_ids.tolist() == expected
        assert prompt.served_by == f"sidecar:{service}"
    with pytest.raises(TokenizerError, match=r"sidecar:127.*InitializeTokenizer: .*'other'"):
        composite.encode("other", "a")
    composite.close()


def test_service_that_serves_a_service_keeps_the_kind_of_errors(service: str) -> None:
    front = Tokenizers(TokenizeConfig(order=("sidecar",), sidecar=SidecarConfig(address=service)))
    with TokenizationServer(front, ServiceConfig(listen=(":0",))) as server:
        tokenizer = found(server.addresses[0])
        with pytest.raises(TemplateError, match="no such role here"):
            tokenizer.encode_chat(Chat(messages=[{"role": "forbidden", "content": "x"}]))
        assert len(tokenizer.encode("ab").token_ids) == 3
        tokenizer.close()
    front.close()


@pytest.mark.slow
def test_threads_may_close_and_call_at_once(service: str) -> None:
    tokenizer = found(service)
    stop = threading.Event()

    def close() -> None:
        while not stop.is_set():
            tokenizer.close()

    closer = threading.Thread(target=close)
    closer.start()
    with ThreadPoolExecutor(4) as pool:
        lengths = list(pool.map(lambda _: len(tokenizer.encode("a").token_ids), range(100)))
    stop.set()
    closer.join(PATIENCE_S)
    assert lengths == [2] * 100
