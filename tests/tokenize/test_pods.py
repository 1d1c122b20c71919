"""Token ids asked of a model server, well-behaved or not."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import ConfigError, InputError, TokenizerError, UnsupportedModelError
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.config import TokenizeLimits
from kvatlas.tokenize.pod_question import chat_question
from kvatlas.tokenize.pods import PodSource, PodTokenizer
from tests.tokenize.scripted_pod import Question, ScriptedPod, http, ids

pytestmark = pytest.mark.timeout(120)

PATIENT_S = 30.0
HURRIED_S = 0.3
HELLO = ({"role": "user", "content": "hello"},)


_made: list[PodTokenizer] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Whatever a test has made lets go of its connections."""
    yield
    while _made:
        _made.pop().close()


def tokenizer(pod: ScriptedPod, timeout_s: float = PATIENT_S, **limits: Any) -> PodTokenizer:
    _made.append(PodTokenizer("m", pod.url, timeout_s=timeout_s, limits=TokenizeLimits(**limits)))
    return _made[-1]


def test_a_text_is_sent_and_its_ids_come_back() -> None:
    with ScriptedPod(lambda _: ids(5, 6, 2**32 - 1)) as pod:
        made = tokenizer(pod).encode("hé", add_special_tokens=False)
    assert made.token_ids.tolist() == [5, 6, 2**32 - 1]
    assert made.token_ids.dtype == np.uint32
    assert made.served_by == f"pod:{pod.url}"
    (question,) = pod.questions
    assert question[:2] == ("/tokenize", {"model": "m", "prompt": "hé", "add_special_tokens": False})


def test_a_chat_is_sent_with_all_that_decides_its_ids() -> None:
    chat = Chat(
        messages=({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}),
        tools=[{"type": "function"}],
        chat_template="{{ x }}",
        add_generation_prompt=False,
        continue_final_message=True,
        add_special_tokens=True,
        chat_template_kwargs={"x": 1},
    )
    with ScriptedPod(lambda _: ids(1)) as pod:
        tokenizer(pod).encode_chat(chat)
    assert pod.questions[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "tools": [{"type": "function"}],
        "chat_template": "{{ x }}",
        "add_generation_prompt": False,
        "continue_final_message": True,
        "add_special_tokens": True,
        "chat_template_kwargs": {"x": 1},
    }


def test_what_tokenize_has_no_field_for_goes_as_a_chat_completion_takes_it() -> None:
    given = {"enable_thinking": True, "reasoning_effort": "low", "x": 1}
    chat = Chat(messages=HELLO, documents=[{"text": "d"}], reasoning_effort="none")
    assert chat_question("m", chat)["chat_template_kwargs"] == {
        "documents": [{"text": "d"}],
        "reasoning_effort": "none",
        "enable_thinking": False,
    }
    own = Chat(messages=HELLO, reasoning_effort="none", chat_template_kwargs=given)
    assert chat_question("m", own)["chat_template_kwargs"] == {**given, "reasoning_effort": "none"}
    assert given["reasoning_effort"] == "low", "the caller's own is left as it is"


def test_the_older_name_for_reasoning_becomes_the_newer() -> None:
    messages = (
        {"role": "assistant", "reasoning_content": "a"},
        {"role": "assistant", "reasoning_content": "a", "reasoning": "b"},
        {"role": "assistant", "reasoning_content": "a", "reasoning": None},
        {"role": "assistant", "reasoning_content": None},
    )
    sent = chat_question("m", Chat(messages=messages))["messages"]
    assert [message.get("reasoning") for message in sent] == ["a", "b", "a", None]
    assert not any("reasoning_content" in message for message in sent)
    assert messages[0] == {"role": "assistant", "reasoning_content": "a"}


def test_one_connection_serves_question_after_question() -> None:
    with ScriptedPod(lambda _: ids(1)) as pod:
        asked = tokenizer(pod)
        for _ in range(5):
            asked.encode("a")
        assert {question.connection for question in pod.questions} == {0}
        asked.close()
        asked.close()
        pod.wait_until_left(1)
        assert asked.encode("after closing").token_ids.tolist() == [1]
        pod.wait_until_left(2)


def test_a_connection_that_was_closed_meanwhile_is_made_anew() -> None:
    with ScriptedPod(lambda _: ids(1)) as pod:
        asked = tokenizer(pod)
        asked.encode("a")
        pod.hang_up()
        pod.wait_until_left(1)
        assert asked.encode("b").token_ids.tolist() == [1]
        assert [question.connection for question in pod.questions] == [0, 1]
        assert asked.statistics().counts == {
            "asked": 2,
            "tokens": 2,
            "refused": 0,
            "failed": 0,
            "connected": 2,
        }


def test_an_answer_that_closes_its_connection_is_the_last_on_it() -> None:
    with ScriptedPod(lambda _: http({"tokens": [3]}, more="Connection: close\r\n")) as pod:
        asked = tokenizer(pod)
        assert [asked.encode("a").token_ids.tolist() for _ in range(3)] == [[3]] * 3
        assert [question.connection for question in pod.questions] == [0, 1, 2]


def test_other_servers_call_them_token_ids_and_send_chunks() -> None:
    chunked = (
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"token_\r\n9\r\nids":[7]}\r\n0\r\n\r\n'
    )
    with ScriptedPod(lambda _: chunked) as pod:
        asked = tokenizer(pod)
        assert [asked.encode("a").token_ids.tolist() for _ in range(2)] == [[7]] * 2
        assert {question.connection for question in pod.questions} == {0}


LONG = TokenizeLimits(text_bytes_max=64 << 20)


def _hang(question: Question) -> Iterator[bytes]:
    question.ended.wait()
    yield b""


def _trickle(question: Question) -> Iterator[bytes]:
    """Never ends, and is never silent for long."""
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n["
    while not question.ended.wait(HURRIED_S / 50):
        yield b" "


def _trickling_head(question: Question) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX: "
    while not question.ended.wait(HURRIED_S / 50):
        yield b"x"


@pytest.mark.parametrize("answering", [_hang, _trickle, _trickling_head])
def test_a_server_that_hangs_or_trickles_is_given_up_in_time(answering: Any) -> None:
    with ScriptedPod(answering) as pod:
        asked = tokenizer(pod, HURRIED_S)
        with pytest.raises(
            TokenizerError, match=r"/tokenize: expected an answer within 0\.3 s, got .*timed out"
        ):
            asked.encode("a")
        pod.answering = lambda _: ids(4)
        asked = tokenizer(pod)
        assert asked.encode("a").token_ids.tolist() == [4], "and asked again as if nothing had been"


def test_a_server_that_does_not_read_is_given_up_in_time() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        asked = PodTokenizer(
            "m", f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=HURRIED_S, limits=LONG
        )
        with pytest.raises(TokenizerError, match="timed out"):
            asked.encode("a" * (16 << 20))  # more than the buffers of a connection take


@pytest.mark.slow
def test_a_server_that_reads_in_sips_is_given_up_in_time() -> None:
    """Each sip lets one write go on: only the question as a whole takes too long."""
    text, sips, pause = "a" * (16 << 20), [], threading.Event()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def sip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while sipped := connection.recv(1 << 16):
                    sips.append(len(sipped))
                    pause.wait(HURRIED_S / 20)

        reader = threading.Thread(target=sip)
        reader.start()
        asked = PodTokenizer(
            "m", f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=HURRIED_S, limits=LONG
        )
        with pytest.raises(TokenizerError, match="timed out"):
            asked.encode(text)
        reader.join()
    assert 0 < sum(sips) < len(text)


def test_an_answer_without_end_is_cut_off() -> None:
    def endless(_question: Question) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        yield from itertools.repeat(b" " * 65536)

    with ScriptedPod(endless) as pod:
        with pytest.raises(TokenizerError, match=r"got more than \d+ bytes"):
            tokenizer(pod).encode("a")
        pod.wait_until_left(1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1, 2",
        b"\xff",
        [1, 2],
        {},
        {"tokens": None},
        {"tokens": ["a"]},
        {"tokens": [1.5]},
        {"tokens": [-1]},
        {"tokens": [2**32]},
        {"tokens": [2**70]},
        {"tokens": [1, 2], "count": 3},
    ],
)
def test_an_answer_that_holds_no_token_ids_is_an_error(body: object) -> None:
    with ScriptedPod(lambda _: http(body)) as pod:
        asked = tokenizer(pod)
        with pytest.raises(TokenizerError, match=pod.url):
            asked.encode("a")
        assert asked.statistics().counts["failed"] == 1


def test_no_answer_whatever_raises_another_error() -> None:
    with ScriptedPod(lambda _: b"") as pod:

        @given(st.binary(max_size=200), st.booleans())
        def ask(noise: bytes, is_http: bool) -> None:
            pod.answering = lambda _: iter((http(noise) if is_http else noise,))
            with contextlib.suppress(TokenizerError):
                assert tokenizer(pod).encode("a").token_ids.dtype == np.uint32
            _made.pop().close()

        ask()


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    "body", [{"error": {"message": "no\nsuch role"}}, {"message": "no such role"}, {"detail": "no such role"}]
)
def test_what_the_server_refuses_is_the_callers_error_in_the_servers_words(status: int, body: object) -> None:
    with ScriptedPod(lambda _: http(body, status)) as pod:
        asked = tokenizer(pod)
        with pytest.raises(InputError, match=rf"messages: refused by {pod.url}: no such role"):
            asked.encode_chat(Chat(messages=HELLO))
        with pytest.raises(InputError, match="prompt: refused"):
            asked.encode("a")
        assert asked.statistics().counts["refused"] == 2
        assert {question.connection for question in pod.questions} == {0}


@pytest.mark.parametrize("status", [204, 301, 401, 404, 500, 503])
def test_another_status_is_the_servers_failure(status: int) -> None:
    with (
        ScriptedPod(lambda _: http("words " * 1000, status, more="Connection: close\r\n")) as pod,
        pytest.raises(TokenizerError, match=f"expected status 200, got {status}") as raised,
    ):
        tokenizer(pod).encode("a")
    assert len(str(raised.value)) < 500


def test_nobody_there_is_an_error_that_names_the_place() -> None:
    with ScriptedPod(lambda _: ids(1)) as pod:
        pass
    with pytest.raises(TokenizerError, match=pod.url):
        tokenizer(pod).encode("a")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tcp://a:1",
        "http://",
        "http://a:b",
        "http://a:99999",
        "a:80",
        "http://a/?b=c",
        "http://u:p@a",
        "http://a\r\nX: y",
        "http://[",
        "http://a b",
        "http://a:0",
    ],
)
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        PodTokenizer("m", url, timeout_s=1)
    with pytest.raises(ConfigError):
        PodSource({"m": url}, 1, TokenizeLimits())


def _cyclic() -> dict[str, Any]:
    message: dict[str, Any] = {"role": "user"}
    message["content"] = [message]
    return message


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "\ud800"},
        {"role": "user", "content": object()},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": [{"text": "a"}, {"image_url": "x"}]},
        {"role": "user", "content": [{"type": ["text"]}]},
        _cyclic(),
    ],
)
def test_what_cannot_be_asked_is_refused_here(message: dict[str, Any]) -> None:
    with ScriptedPod(lambda _: ids(1)) as pod:
        with pytest.raises(InputError, match=r"^messages: "):
            tokenizer(pod).encode_chat(Chat(messages=[message]))
        with pytest.raises(InputError, match=r"^messages: .*identifiers"):
            tokenizer(pod).encode_chat(Chat(messages=HELLO, media=[Media(identifier="a", n_tokens=3)]))
        assert pod.questions == []


def test_texts_and_chats_beyond_the_limits_are_refused_here() -> None:
    with ScriptedPod(lambda _: ids(1)) as pod:
        asked = tokenizer(pod, text_bytes_max=1000, messages_max=2)
        for text in ("a" * 1001, "é" * 501, "\ud800"):
            with pytest.raises(InputError, match=r"^prompt: "):
                asked.encode(text)
        with pytest.raises(InputError, match=r"^messages: expected a list, got int"):
            asked.encode_chat(Chat(messages=7))  # type: ignore[arg-type]
        with pytest.raises(InputError, match="at most 2, got 3"):
            asked.encode_chat(Chat(messages=HELLO * 3))
        with pytest.raises(InputError, match=r"^messages: expected at most 10096 bytes"):
            asked.encode_chat(Chat(messages=({"role": "user", "content": "a" * 10096},)))
        assert pod.questions == []
        assert asked.encode("\x00" * 1000).token_ids.tolist() == [1]


def test_a_server_tells_ids_only() -> None:
    asked = PodTokenizer("m", "http://a:1/b/", timeout_s=1)
    with pytest.raises(UnsupportedModelError, match="ids only"):
        asked.render_chat(Chat(messages=HELLO))
    assert (asked.served_by, asked.is_current()) == ("pod:http://a:1/b", True)


def test_ids_are_put_back_into_words_by_the_server() -> None:
    with ScriptedPod(lambda _: http({"prompt": "hé"})) as pod:
        assert tokenizer(pod).decode(np.array([1, 2], np.uint32)) == "hé"
    assert pod.questions[0][:2] == ("/detokenize", {"model": "m", "tokens": [1, 2]})


def test_many_threads_each_get_their_own_answer() -> None:
    with ScriptedPod(lambda question: ids(int(question.body["prompt"]))) as pod:
        asked = tokenizer(pod)
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(lambda n: asked.encode(str(n)).token_ids.tolist(), range(400)))
        assert found == [[n] for n in range(400)]
        assert asked.statistics().counts["tokens"] == 400
        asked.close()


def test_the_source_knows_the_models_of_its_map() -> None:
    with ScriptedPod(lambda _: ids(9)) as pod:
        source = PodSource({"b": pod.url, "a": "http://elsewhere:1"}, PATIENT_S, TokenizeLimits())
        assert (source.name, source.models(), source.find("c")) == ("pods", ("a", "b"), None)
        found = source.find("b")
        assert found is not None
        assert (found.model, found.encode("x").token_ids.tolist()) == ("b", [9])
        found.close()
