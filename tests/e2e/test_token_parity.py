"""Token ids made here beside those of a real model server: the battery, chats by chance, scores."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from kvatlas import TokenizeConfig, Tokenizers
from kvatlas.cluster.cli import app
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.parity.battery import battery
from kvatlas.tokenize.parity.case import Case
from kvatlas.tokenize.parity.check import check, special_tokens_of
from tests.e2e.chat_tokenizer import write_chat_tokenizer
from tests.e2e.observed_server import ObservedServer, Observer
from tests.e2e.random_chats import random_chat, random_text
from tests.e2e.vllm_server import (
    BLOCK_SIZE_TOKENS,
    MODEL_NAME,
    ServerFailedError,
    VllmServer,
    write_tiny_model,
)

pytestmark = pytest.mark.timeout(420)  # the first test of each server waits for it to start

_PROMPT_TOKENS_MAX = 1000  # the servers take 1024


class Beside(NamedTuple):
    """A server, and tokenizers that know its files."""

    server: VllmServer
    tokenizers: Tokenizers

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.http_port}"


@pytest.fixture(scope="module", params=["own", "qwen3"])
def beside(
    request: pytest.FixtureRequest, vllm_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Beside]:
    folder = tmp_path_factory.mktemp(request.param)
    files = folder / "plain"
    if request.param == "own":
        write_chat_tokenizer(files)
    else:
        shutil.copytree(_shared_tokenizer(request, "qwen3"), files, copy_function=shutil.copyfile)
        files.chmod(0o755)
    model = write_tiny_model(vllm_python, folder, "plain")
    config = TokenizeConfig(models={MODEL_NAME: str(model)})
    with (
        contextlib.closing(Tokenizers(config)) as tokenizers,
        VllmServer(vllm_python, model, folder) as server,
    ):
        server.wait_until_healthy()
        yield Beside(server, tokenizers)


def _shared_tokenizer(request: pytest.FixtureRequest, name: str) -> Path:
    shared: Path = request.getfixturevalue("shared")
    found = shared / "tokenizers" / name
    if not found.is_dir():
        pytest.skip(f"the shared folder has no tokenizers/{name}")
    return found


def test_every_case_of_the_battery_has_the_servers_ids(beside: Beside) -> None:
    tokenizer = beside.tokenizers.get(MODEL_NAME)
    tokens = special_tokens_of(tokenizer)
    assert len(tokens) >= 5
    report = check(tokenizer, beside.url, cases=battery(tokens))
    assert report.is_equal, report.different
    assert len(report.cases) > 140
    assert report.count("both refuse") < 12, [case for case in report.cases if case.outcome == "both refuse"]


def test_chats_and_texts_by_chance_have_the_servers_ids(beside: Beside) -> None:
    source = random.Random(5)
    cases = [Case(name=f"chat {number}", chat=random_chat(source)) for number in range(300)]
    cases += [Case(name=f"text {number}", text=random_text(source, 40)) for number in range(100)]
    report = check(beside.tokenizers.get(MODEL_NAME), beside.url, cases=cases)
    assert report.is_equal, [(case, cases[int(case.name.split()[1])]) for case in report.different[:3]]
    assert report.count("both refuse") < 10


def test_requests_have_the_ids_that_were_foretold(beside: Beside) -> None:
    """As /tokenize says: here the server computes from them."""
    compared = 0
    for case in battery():
        if case.chat is None:
            continue
        with contextlib.suppress(ServerFailedError):  # refused, which the comparison above has looked at
            answer = beside.server.chat(case.chat.messages, **_fields(case.chat))
            made = case.ask(beside.tokenizers.get(MODEL_NAME))
            assert tuple(made.token_ids.tolist()) == answer.prompt_token_ids, case.name
            compared += 1
    assert compared > 80


def _fields(chat: Chat) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "add_generation_prompt": chat.add_generation_prompt,
        "continue_final_message": chat.continue_final_message,
        "add_special_tokens": chat.add_special_tokens,
        "chat_template_kwargs": dict(chat.chat_template_kwargs),
        "tools": chat.tools,
        "documents": chat.documents,
        "reasoning_effort": chat.reasoning_effort,
    }
    return {name: value for name, value in fields.items() if value is not None}


def test_every_turn_of_chats_reuses_what_was_predicted_from_its_messages(beside: Beside) -> None:
    with (
        Observer(beside.server, tokenizers=beside.tokenizers) as observer,
        ObservedServer(beside.server, observer) as observed,
    ):
        observed.reset()
        reused = 0
        for number in range(3):
            messages: list[dict[str, Any]] = [
                {"role": "system", "content": f"You are assistant {number}. " + "Be brief and kind. " * 12}
            ]
            for turn in range(4):
                messages.append({"role": "user", "content": f"Question {turn}: what is {turn} + {number}?"})
                predicted = _predicted(observed, messages)
                answer = beside.server.chat(messages, max_tokens=20)
                observed.settle()
                assert predicted == answer.cached_tokens, (number, turn)
                reused += answer.cached_tokens
                messages.append({"role": "assistant", "content": answer.text})
        assert reused > 20 * BLOCK_SIZE_TOKENS


def _predicted(observed: ObservedServer, messages: list[dict[str, Any]]) -> int:
    scores = observed.atlas.score(model=MODEL_NAME, messages=messages)
    return sum(match.cached_tokens for match in scores.matches if match.pod == observed.server.pod)


def test_a_text_is_predicted_as_its_ids_are(beside: Beside) -> None:
    text = "The router asks the atlas which server holds the blocks. " * 6
    with (
        Observer(beside.server, tokenizers=beside.tokenizers) as observer,
        ObservedServer(beside.server, observer) as observed,
    ):
        observed.reset()
        ids = beside.tokenizers.encode(MODEL_NAME, text).token_ids.tolist()
        observed.complete(ids)
        scores = observed.atlas.score(model=MODEL_NAME, prompt=text + "And more.")
        assert scores[observed.server.pod] == len(ids) // BLOCK_SIZE_TOKENS > 1


def test_the_servers_themselves_can_be_asked_instead(beside: Beside) -> None:
    chat = Chat(messages=[{"role": "user", "content": "Hello"}])
    with contextlib.closing(Tokenizers(TokenizeConfig(pods={MODEL_NAME: beside.url}))) as asking:
        asked = asking.encode_chat(MODEL_NAME, chat)
    made = beside.tokenizers.encode_chat(MODEL_NAME, chat)
    assert asked.token_ids.tolist() == made.token_ids.tolist()
    assert (asked.served_by, made.served_by.partition(":")[0]) == (f"pod:{beside.url}", "files")


def test_the_command_tells_equal_from_different(beside: Beside, tmp_path: Path) -> None:
    files = beside.server.model
    same = _check(beside, files)
    assert same.exit_code == 0, same.output
    assert "all equal" in same.stdout

    another = tmp_path / "another"
    shutil.copytree(files, another, ignore=shutil.ignore_patterns("*.safetensors"))
    definition = json.loads((another / "tokenizer.json").read_bytes())
    definition["model"]["merges"] = definition["model"]["merges"][: len(definition["model"]["merges"]) // 2]
    (another / "tokenizer.json").write_text(json.dumps(definition))
    other = _check(beside, another)
    assert other.exit_code == 1, other.output
    assert "cases equal, " in other.stdout and ", from token " in other.stdout
    told = json.loads(_check(beside, another, "--json").stdout)
    assert not told["is_equal"]
    first = next(case["difference"] for case in told["cases"] if case["difference"])
    assert first["here"] != first["pod"]


def _check(beside: Beside, files: Path, *more: str) -> Any:
    named = ("--model", MODEL_NAME, "--pod", beside.url, "--path", str(files))
    return CliRunner().invoke(app, ("tokenize", "check", *named, *more))
