"""The command `kvatlas score`, on a real Ray: a chat, a text or ids in, pods by score out."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.e2e.chat_tokenizer import write_chat_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]

MODEL = "some/model"
NAME = ("--name", "scored")
MESSAGES = [
    {"role": "system", "content": "You are a router. " * 10},
    {"role": "user", "content": "Which server holds the blocks of this prompt?"},
]
TEXT = "the router asks the atlas which server holds the blocks of this prompt. " * 5


def kvatlas(*arguments: object) -> Result:
    return CliRunner().invoke(app, tuple(map(str, arguments)))


def score(*arguments: object) -> dict[str, Any]:
    result = kvatlas("score", "--model", MODEL, *NAME, "--json", *arguments)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizers]:
    folder = tmp_path_factory.mktemp("files")
    write_chat_tokenizer(folder)
    config = TokenizeConfig(models={MODEL: str(folder)})
    with contextlib.closing(Tokenizers(config)) as tokenizers:
        yield tokenizers


@pytest.fixture(scope="module", autouse=True)
def cluster(
    shared_ray: None, tokenizers: Tokenizers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A cluster that follows one pod, which has computed a chat and a text."""
    file = tmp_path_factory.mktemp("config") / "cluster.yaml"
    models = dict(tokenizers.config.models)
    file.write_text(json.dumps({"name": "scored", "shards": {"count": 1}, "tokenize": {"models": models}}))
    assert kvatlas("up", "-c", file).exit_code == 0
    with SimulatedServer("pod-a", MODEL) as server:
        publisher = server.listen()
        server.serve(tokenizers.encode_chat(MODEL, Chat(messages=MESSAGES)).token_ids.tolist())
        server.serve(tokenizers.encode(MODEL, TEXT).token_ids.tolist())
        added = ("pods", "add", "pod-a", "--endpoint", publisher.endpoint)
        assert kvatlas(*added, "--replay-endpoint", publisher.replay_endpoint, *NAME).exit_code == 0
        _wait_until_followed()
        yield
    assert kvatlas("down", *NAME).exit_code == 0


def _wait_until_followed() -> None:
    until_s = time.monotonic() + 60
    while True:
        told = json.loads(kvatlas("status", *NAME, "--json").stdout)
        if [worker["state"] for worker in told["workers"]] == ["EXACT"]:
            return
        assert time.monotonic() < until_s, told


def test_a_chat_is_scored_by_what_its_pod_holds(tmp_path: Path, tokenizers: Tokenizers) -> None:
    more = [*MESSAGES, {"role": "assistant", "content": "pod-a."}, {"role": "user", "content": "Why?"}]
    (tmp_path / "chat.json").write_text(json.dumps({"model": MODEL, "messages": more}))
    told = score("--chat", tmp_path / "chat.json")
    held = len(tokenizers.encode_chat(MODEL, Chat(messages=MESSAGES, add_generation_prompt=False)).token_ids)
    assert told["prompt_tokens"] == len(tokenizers.encode_chat(MODEL, Chat(messages=more)).token_ids)
    assert told["tokens_by"].startswith("files:")
    assert list(told["scores"]) == ["pod-a"]
    (worker,) = told["workers"]
    assert worker["cached_tokens"] == held // told["block_size_tokens"] * told["block_size_tokens"] > 0
    assert (worker["truth"], worker["tier_blocks"]) == ("EXACT", {"gpu": worker["blocks"]})
    assert "held nowhere" in worker["reason"]


def test_a_text_and_its_ids_are_scored_alike(tmp_path: Path, tokenizers: Tokenizers) -> None:
    (tmp_path / "ids.json").write_text(json.dumps(tokenizers.encode(MODEL, TEXT).token_ids.tolist()))
    by_text, by_ids = score("--prompt", TEXT), score("--tokens", tmp_path / "ids.json")
    assert by_text["workers"] == by_ids["workers"] != []
    assert (by_text["tokens_by"] != "", by_ids["tokens_by"]) == (True, "")


def test_a_salt_makes_another_prompt_also_where_the_request_has_it(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text(json.dumps({"messages": MESSAGES, "cache_salt": "tenant"}))
    assert score("--chat", tmp_path / "chat.json")["scores"] == {}
    assert score("--prompt", TEXT, "--cache-salt", "tenant")["scores"] == {}
    assert score("--prompt", TEXT, "--lora", "adapter")["scores"] == {}
    assert score("--prompt", TEXT, "--pod", "pod-b")["scores"] == {}


def test_people_see_a_table() -> None:
    result = kvatlas("score", "--model", MODEL, *NAME, "--prompt", TEXT)
    assert result.exit_code == 0, result.output
    heading, by, columns, row, *_ = result.stdout.splitlines()
    assert heading.startswith(f"{MODEL}: ") and " tokens, " in heading
    assert by.startswith("tokens by files:")
    assert columns.split()[:2] == ["pod", "score"]
    assert row.split()[0] == "pod-a" and "gpu" in row and "EXACT" in row


def test_what_cannot_be_scored_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("[1, -2]")
    for arguments, said in (
        ((), "expected one of --prompt, --prompt-file, --chat and --tokens"),
        (("--tokens", tmp_path / "ids.json"), "token"),
        (("--tokens", tmp_path), "directory"),
    ):
        result = kvatlas("score", "--model", MODEL, *NAME, *arguments)
        assert (result.exit_code in (1, 2), result.stdout, result.stderr.count("\n")) == (True, "", 1)
        assert said in result.stderr
    unknown = kvatlas("score", "--model", "nobody/s", *NAME, "--prompt", "a")
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)
    assert "'nobody/s'" in unknown.stderr
