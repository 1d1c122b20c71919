"""Sidecars and pods that hang, drip, redirect or talk nonsense: one error in time, others are served."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import SidecarConfig
from kvatlas.tokenize.pool.bounded_work import BoundedWork, WorkLimits
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.cluster.pool_rig import HangingPod
from tests.tokenize.bad_input.victims import (
    TEXT,
    USER,
    check_message,
    check_served,
    plain_ids,
    refusal,
    victims,
)
from tests.tokenize.loading.model_files import write_model
from tests.tokenize.scripted_pod import Question, ScriptedPod, http, ids
from tests.tokenize.test_tokenizers import until

pytestmark = pytest.mark.timeout(120)
HURRIED_S = 1.0
PATIENCE_S = 60.0
CHAT = Chat(messages=[USER])


def _drip(question: Question) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n["
    while not question.ended.wait(HURRIED_S / 30):
        yield b" "


def _redirect(_: Question) -> bytes:
    return http(b"", 302, more="Location: http://127.0.0.1:1/elsewhere\r\n")


ANSWERS: dict[str, Callable[[Question], bytes | Iterator[bytes]]] = {
    "drips": _drip,
    "redirects": _redirect,
    "fails": lambda _: http({"error": {"message": "a\nb\x1b[2J" + "z" * 100_000}}, 500),
    "answers a page": lambda _: http(b"<html>" + b"<p>\r\n" * 50_000),
    "answers with ids beyond 32 bits": lambda _: ids(2**32),
    "answers with negative ids": lambda _: ids(-1),
    "answers with fewer ids than it says": lambda _: ids(1, 2, count=3),
    "answers nonsense": lambda _: b"\xff\x00" * 1000,
    "refuses with half a character": lambda _: http(b'{"message": "\\ud800\\n"}', 500),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_pod_that_misbehaves_is_one_error_in_time(folder: Path, name: str) -> None:
    with ScriptedPod(ANSWERS[name]) as pod:
        tokenizers = victims(folder, pods={"away": pod.url}, pod_timeout_s=HURRIED_S)
        for call in (lambda: tokenizers.encode("away", "x"), lambda: tokenizers.encode_chat("away", CHAT)):
            error = refusal(tokenizers, call)
            assert isinstance(error, TokenizerError) and pod.url in str(error)
        pod.answering = lambda _: ids(7)
        assert tokenizers.encode("away", "x").token_ids.tolist() == [7], "as if nothing had been"
        tokenizers.close()


def test_sidecar_that_hangs_is_one_error_in_time_and_is_left_alone_for_a_while(folder: Path) -> None:
    hanging = HangingPod()
    sidecar = SidecarConfig(address=hanging.url.removeprefix("http://"), timeout_s=HURRIED_S)
    tokenizers = victims(folder, sidecar=sidecar, look_s=1000.0)
    for _ in range(20):  # the first waits for it, the others are told what it was told
        error = refusal(tokenizers, lambda: tokenizers.encode("away", "x"))
        assert f"sidecar:{sidecar.address}: InitializeTokenizer: " in str(error)
    assert tokenizers.statistics().load_failures == 1
    tokenizers.close()
    hanging.close()


def test_those_who_are_loaded_are_served_while_all_others_hang(folder: Path) -> None:
    """Every thread but one, and half of the queue, wait for a pod that never answers."""
    hanging = HangingPod()
    tokenizers = victims(folder, pods={"away": hanging.url}, pod_timeout_s=PATIENCE_S)
    check_served(tokenizers)
    work = BoundedWork(WorkLimits(threads=3, waiting_max=8))

    def submit(model: str) -> object:
        is_slow = not tokenizers.is_at_hand(model)
        return work.submit(lambda: tokenizers.encode(model, TEXT).token_ids.tolist(), is_slow=is_slow)

    stuck = [submit("away") for _ in range(2)]
    until(lambda: work.statistics().busy == 2)
    stuck += [submit("away") for _ in range(4)]
    for _ in range(50):
        served = work.submit(
            lambda: tokenizers.encode("good", TEXT).token_ids.tolist(),
            is_slow=not tokenizers.is_at_hand("good"),
        )
        assert served.result(PATIENCE_S) == plain_ids(TEXT, True)
    assert work.statistics().busy == 2
    hanging.close()
    for one in stuck:
        with pytest.raises(TokenizerError):
            one.result(PATIENCE_S)  # type: ignore[attr-defined]
    assert work.statistics().counts == {"done": 50, "failed": 6}
    work.close()
    tokenizers.close()


@pytest.fixture
def sidecar(folder: Path, tokenizers: Tokenizers) -> Iterator[str]:
    """A real service that serves the victims; its address."""
    server = TokenizationServer(tokenizers, ServiceConfig(listen=(":0",)))
    yield server.start()[0]
    server.stop(0)


def test_chat_that_files_do_not_suffice_for_is_passed_on_to_the_sidecar(
    tmp_path: Path, tokenizers: Tokenizers, sidecar: str
) -> None:
    """Here the model has no template; the service knows it with one."""
    write_model(tmp_path / "good", tokenizer_config=None)
    here = victims(tmp_path, sidecar=SidecarConfig(address=sidecar))
    assert here.encode("good", "x").served_by.startswith("files:")
    prompt = here.encode_chat("good", CHAT)
    assert prompt.served_by == f"sidecar:{sidecar}"
    assert prompt.token_ids.tolist() == tokenizers.encode_chat("good", CHAT).token_ids.tolist()
    assert here.statistics().passed_on == 1
    here.close()


def test_errors_come_through_a_sidecar_as_one_line(tmp_path: Path, sidecar: str) -> None:
    (tmp_path / "none").mkdir()
    here = victims(tmp_path, order=("sidecar",), sidecar=SidecarConfig(address=sidecar))
    for chat in ({"role": "bad", "content": "a\r\nERROR\x1b[2J"}, {"role": "bad", "content": "z" * 100_000}):
        with pytest.raises(Exception, match="sidecar:") as caught:
            here.encode_chat("curious", Chat(messages=[chat]))
        check_message(caught.value)
    here.close()


def test_sixteen_who_ask_for_one_model_that_hangs_wait_for_one_question(folder: Path) -> None:
    hanging = HangingPod()
    sidecar = SidecarConfig(address=hanging.url.removeprefix("http://"), timeout_s=1.0)
    tokenizers = victims(folder, sidecar=sidecar, look_s=1000.0)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            tokenizers.encode("away", "x")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    check_served(tokenizers)
    for thread in threads:
        thread.join()
    assert len(errors) == 16 and {type(error) for error in errors} == {TokenizerError}
    assert tokenizers.statistics().load_failures == 1
    tokenizers.close()
    hanging.close()
