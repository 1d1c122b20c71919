"""A tokenizer compared with a server: what is equal, where the rest parts, and what is no answer at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.local import LocalTokenizer
from kvatlas.tokenize.parity.battery import battery
from kvatlas.tokenize.parity.case import Case, plain
from kvatlas.tokenize.parity.check import CaseResult, check, special_tokens_of
from kvatlas.tokenize.pods import PodTokenizer
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.e2e.chat_tokenizer import SPECIAL_TOKENS, write_chat_tokenizer
from tests.tokenize.parity.files_pod import Spoil, files_pod

pytestmark = pytest.mark.timeout(120)

HELLO = plain("hello", "hello there, router")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTokenizer]:
    folder = tmp_path_factory.mktemp("chat")
    write_chat_tokenizer(folder)
    with loaded(folder) as found:
        yield found


@contextlib.contextmanager
def loaded(folder: Path) -> Iterator[LocalTokenizer]:
    with contextlib.closing(Tokenizers(TokenizeConfig(models={"m": str(folder)}))) as tokenizers:
        found = tokenizers.get("m")
        assert isinstance(found, LocalTokenizer)
        yield found


def only(tokenizer: LocalTokenizer, spoil: Spoil, case: Case = HELLO) -> CaseResult:
    with files_pod(tokenizer, spoil) as pod:
        report = check(tokenizer, pod.url, cases=[case])
    (result,) = report.cases
    assert report.is_equal == result.is_equal
    assert report.different == (() if result.is_equal else (result,))
    return result


def test_the_battery_is_equal_to_itself_and_shown_as_it_goes(tokenizer: LocalTokenizer) -> None:
    seen: list[CaseResult] = []
    with files_pod(tokenizer) as pod:
        report = check(tokenizer, pod.url, seen=seen.append)
        assert report.is_equal, report.different
        assert (report.model, report.pod_url, report.served_by) == ("m", pod.url, tokenizer.served_by)
    assert tuple(seen) == report.cases
    assert [case.name for case in report.cases] == [case.name for case in battery()]
    refused = [case for case in report.cases if case.outcome == "both refuse"]
    assert 0 < len(refused) == report.count("both refuse") < 12
    assert all(case.here_error and "the server says" in case.pod_error for case in refused)
    assert sum(case.tokens > 0 for case in report.cases) > 130


def test_the_first_id_that_differs_is_shown_with_the_words_around_it(tokenizer: LocalTokenizer) -> None:
    made = tokenizer.encode(HELLO.text).token_ids.tolist()
    assert len(made) > 6

    def spoil(_body: dict[str, Any], token_ids: list[int]) -> list[int]:
        return [*token_ids[:4], 77, *token_ids[5:-1], 78]

    result = only(tokenizer, spoil)
    assert (result.outcome, result.tokens) == ("differs", len(made))
    told = result.difference
    assert told is not None
    assert (told.index, told.here, told.pod) == (4, made[4], 77)
    assert told.text_before == " ".join(map(str, made[:4]))
    assert told.here_text == " ".join(map(str, made[4:12]))
    assert told.pod_text == " ".join(map(str, [77, *made[5:-1], 78][:8]))


@pytest.mark.parametrize("pod_has_more", [True, False])
def test_ids_that_go_on_where_the_others_end_differ(tokenizer: LocalTokenizer, pod_has_more: bool) -> None:
    made = tokenizer.encode(HELLO.text).token_ids.tolist()
    told = only(tokenizer, lambda _, all_ids: [*all_ids, 9] if pod_has_more else all_ids[:-1]).difference
    assert told is not None
    ends = (len(made), None, 9) if pod_has_more else (len(made) - 1, made[-1], None)
    assert (told.index, told.here, told.pod) == ends
    assert (told.here_text == "") == pod_has_more


def test_a_case_that_one_of_both_refuses_is_not_equal(tokenizer: LocalTokenizer) -> None:
    result = only(tokenizer, lambda _, __: None)
    assert (result.outcome, result.difference) == ("only the pod refuses", None)
    assert (result.here_error, result.pod_error.endswith("spoilt")) == ("", True)
    unknown = Case(name="unknown", chat=Chat(messages=[{"role": "nobody", "content": "a"}]))
    with files_pod(tokenizer) as pod:
        pod.answering = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n" + b'{"tokens":[1]}'
        (result,) = check(tokenizer, pod.url, cases=[unknown]).cases
    assert (result.outcome, result.pod_error, result.tokens) == ("only here refused", "", 1)
    assert "unknown role nobody" in result.here_error


def test_a_server_that_does_not_answer_ends_the_comparison(tokenizer: LocalTokenizer) -> None:
    with files_pod(tokenizer) as pod:
        pass
    with pytest.raises(TokenizerError, match=f"^text: hello: {pod.url}"):
        check(tokenizer, pod.url, cases=[HELLO])


def test_chats_that_are_not_supported_here_are_left_out_and_counted(
    tokenizer: LocalTokenizer, tmp_path: Path
) -> None:
    write_chat_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}')
    chat = Case(name="chat", chat=Chat(messages=[{"role": "user", "content": "a"}]))
    with files_pod(tokenizer) as pod, loaded(tmp_path) as harmony:
        report = check(harmony, pod.url, cases=[HELLO, chat])
        assert not check(harmony, pod.url, cases=[chat]).is_equal, "nothing was compared"
    assert [case.outcome for case in report.cases] == ["equal", "not supported here"]
    assert "harmony" in report.cases[1].here_error
    assert (report.is_equal, report.different) == (True, ())


def test_nothing_compared_is_not_equal(tokenizer: LocalTokenizer) -> None:
    assert not check(tokenizer, "http://nobody.invalid:1", cases=[]).is_equal


def test_special_tokens_are_those_of_the_files(tokenizer: LocalTokenizer) -> None:
    assert set(special_tokens_of(tokenizer)) >= set(SPECIAL_TOKENS)
    assert special_tokens_of(PodTokenizer("m", "http://a:1", timeout_s=1)) == ()
