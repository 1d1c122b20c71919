"""The commands `kvatlas tokenize`, as a user types them: compare, encode, serve."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.tokenize.config import SidecarConfig, TokenizeConfig
from kvatlas.tokenize.local import LocalTokenizer
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.e2e.chat_tokenizer import write_chat_tokenizer
from tests.tokenize.parity.files_pod import files_pod

pytestmark = pytest.mark.timeout(120)

TEXT = "the router asks the atlas"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files") / "some" / "model"
    write_chat_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(files: Path) -> Iterator[LocalTokenizer]:
    with contextlib.closing(Tokenizers(TokenizeConfig(models={"m": str(files)}))) as tokenizers:
        found = tokenizers.get("m")
        assert isinstance(found, LocalTokenizer)
        yield found


def kvatlas(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, tuple(map(str, arguments)), input=stdin)


def misused(result: Result, said: str, exit_code: int = 2) -> None:
    """One clear line."""
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (exit_code, 1, "")
    assert result.stderr.startswith("kvatlas: ") and said in result.stderr, result.stderr


def encode(files: Path, *arguments: object, stdin: str | None = None) -> Result:
    return kvatlas("tokenize", "encode", "-m", "m", "--path", files, *arguments, stdin=stdin)


def check(files: Path, url: str, *arguments: object) -> Result:
    return kvatlas("tokenize", "check", "-m", "m", "--pod", url, "--path", files, *arguments)


@pytest.mark.slow
def test_a_text_becomes_a_list_of_ids(files: Path, tokenizer: LocalTokenizer) -> None:
    result = encode(files, "--prompt", TEXT)
    expected = tokenizer.encode(TEXT).token_ids.tolist()
    assert (result.exit_code, json.loads(result.stdout)) == (0, expected)
    assert result.stderr == f"{len(expected)} tokens by files:{files}\n"
    plain = encode(files, "--prompt", TEXT, "--no-special")
    assert json.loads(plain.stdout) == expected[1:]


@pytest.mark.slow
def test_a_chat_comes_as_a_request_or_as_its_messages(
    files: Path, tokenizer: LocalTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "chat.json").write_text(json.dumps(CHAT))
    request = encode(files, "--chat", tmp_path / "chat.json", "--json")
    messages = encode(files, "--chat", "-", "--json", stdin=json.dumps(CHAT["messages"]))
    assert request.stdout == messages.stdout
    told = json.loads(request.stdout)
    assert told["count"] == len(told["token_ids"]) > 5
    assert told["served_by"] == f"files:{files}"


@pytest.mark.slow
def test_pieces_are_the_text_cut_into_tokens(files: Path, tmp_path: Path) -> None:
    text = "größer 🙂 <|role|>\n"
    (tmp_path / "prompt.txt").write_text(text)
    given = ("--prompt-file", tmp_path / "prompt.txt", "--pieces")
    told = json.loads(encode(files, *given, "--no-special", "--json").stdout)
    assert len(told["pieces"]) == told["count"]
    assert "<|role|>" in told["pieces"]
    rows = encode(files, *given).stdout.splitlines()
    assert len(rows) == told["count"] + 1, "and the first token, which stands for no text"
    assert rows[0].split() == ["1", "''"]
    chat = json.loads(encode(files, "--chat", "-", "--pieces", "--json", stdin=json.dumps(CHAT)).stdout)
    assert "".join(chat["pieces"]).startswith("<|begin|><|role|>user<|text|>hello<|end|>")


@pytest.mark.slow
def test_what_is_no_prompt_is_said_in_a_line(files: Path, tmp_path: Path) -> None:
    misused(encode(files), "expected one of --prompt, --prompt-file and --chat")
    misused(encode(files, "--prompt", "a", "--chat", "-"), "expected one of")
    misused(encode(files, "--chat", tmp_path / "none.json"), "none.json", exit_code=1)
    misused(encode(files, "--chat", "-", stdin='{"messages": '), "-: expected JSON")
    misused(encode(files, "--chat", "-", stdin="3"), "-: expected a request or a list of messages, got int")
    misused(encode(files, "--chat", "-", stdin='{"messages": [{"role": "critic"}]}'), "unknown role critic")
    (tmp_path / "latin").write_bytes("größer".encode("latin-1"))
    misused(encode(files, "--prompt-file", tmp_path / "latin"), "latin: expected UTF-8")


def test_a_model_that_is_nowhere_is_said_in_a_line(files: Path, tmp_path: Path) -> None:
    misused(kvatlas("tokenize", "encode", "-m", "nobody/s", "--prompt", "a"), "'nobody/s'", exit_code=1)
    misused(encode(tmp_path, "--prompt", "a"), "tokenizer.json", exit_code=1)


@pytest.mark.slow
def test_a_model_is_found_by_folder_and_by_configuration(files: Path, tmp_path: Path) -> None:
    expected = encode(files, "--prompt", TEXT).stdout
    root = files.parent.parent
    in_folder = kvatlas("tokenize", "encode", "-m", "some/model", "--folder", root, "--prompt", TEXT)
    assert in_folder.stdout == expected
    config = tmp_path / "cluster.yaml"
    config.write_text(json.dumps({"tokenize": {"models": {"mine": str(files)}}}))
    configured = kvatlas("tokenize", "encode", "-m", "mine", "-c", config, "--prompt", TEXT)
    assert configured.stdout == expected


@pytest.mark.slow
def test_equal_ids_end_with_zero(files: Path, tokenizer: LocalTokenizer) -> None:
    with files_pod(tokenizer) as pod:
        result = check(files, pod.url)
        told = json.loads(check(files, pod.url, "--json").stdout)
    assert result.exit_code == 0, result.output
    assert "m: 149 cases, all equal, 5 of them refused by both; " in result.stdout
    assert (told["is_equal"], len(told["cases"]), told["pod_url"]) == (True, 149, pod.url)


def _spoilt(body: dict[str, Any], token_ids: list[int]) -> list[int] | None:
    """As a server with another template: chats have two tokens more, and tools are refused."""
    if "messages" not in body:
        return token_ids
    return None if "tools" in body else [*token_ids[:3], 50, 51, *token_ids[3:]]


@pytest.mark.slow
def test_other_ids_end_with_one_and_the_first_difference(files: Path, tokenizer: LocalTokenizer) -> None:
    with files_pod(tokenizer, _spoilt) as pod:
        result = check(files, pod.url)
        asked_as_json = check(files, pod.url, "--json")
    assert result.exit_code == asked_as_json.exit_code == 1
    assert "chat: a question  " in result.stdout and "text: " not in result.stdout
    assert "chat: a question, from token 3 on:\n" in result.stdout
    assert "more: --json shows all" in result.stdout
    told = json.loads(asked_as_json.stdout)
    outcomes = [case["outcome"] for case in told["cases"]]
    assert set(outcomes) == {"equal", "both refuse", "differs", "only the pod refuses"}
    first = next(case for case in told["cases"] if case["outcome"] == "differs")["difference"]
    assert (first["index"], first["pod"]) == (3, 50)


def test_what_is_not_supported_here_is_said_and_left_out(
    files: Path, tokenizer: LocalTokenizer, tmp_path: Path
) -> None:
    shutil.copytree(files, tmp_path / "harmony")
    (tmp_path / "harmony" / "config.json").write_text('{"model_type": "gpt_oss"}')
    with files_pod(tokenizer) as pod:
        result = check(tmp_path / "harmony", pod.url)
    assert result.exit_code == 0, result.output
    assert "33 of 149 cases equal; " in result.stdout
    assert "116 cases not supported here: " in result.stdout and "harmony" in result.stdout


def test_a_pod_that_cannot_be_asked_is_said_in_a_line(files: Path, tokenizer: LocalTokenizer) -> None:
    with files_pod(tokenizer) as pod:
        pass
    result = check(files, pod.url)
    assert result.exit_code == 1
    assert f"kvatlas: text: empty: {pod.url}/tokenize: expected an answer" in result.stderr
    misused(check(files, "localhost:8000"), "expected http://HOST:PORT, got 'localhost:8000'")


@pytest.mark.slow
def test_the_service_serves_until_it_is_asked_to_end(files: Path, tmp_path: Path) -> None:
    socket = tmp_path / "tokens.sock"
    command = [sys.executable, "-c", "from kvatlas.cluster.cli import main; main()", "tokenize", "serve"]
    named = ["--listen", f"unix:{socket}", "--listen", "127.0.0.1:0", "--model", f"m={files}"]
    with subprocess.Popen([*command, *named], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            assert server.stderr.readline() == f"m: files:{files}\n"
            addresses = server.stderr.readline().removeprefix("listens at ").strip().split(", ")
            assert len(addresses) == 2
            for address in addresses:
                assert _asked(address) == json.loads(encode(files, "--prompt", TEXT).stdout)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stderr.read() == ""
    assert not socket.exists()


def _asked(address: str) -> list[int]:
    config = TokenizeConfig(sidecar=SidecarConfig(address=address), order=("sidecar",))
    with contextlib.closing(Tokenizers(config)) as tokenizers:
        ids: list[int] = tokenizers.encode("m", TEXT).token_ids.tolist()
        return ids


@pytest.mark.slow
def test_a_service_that_cannot_start_is_said_in_a_line(files: Path, tmp_path: Path) -> None:
    misused(kvatlas("tokenize", "serve", "--listen", "nonsense"), "listen")
    misused(kvatlas("tokenize", "serve", "--tls-key", "key.pem"), "tls_certificate_file")
    misused(
        kvatlas("tokenize", "serve", "--model", "nobody", "--listen", "127.0.0.1:0"), "'nobody'", exit_code=1
    )
    (tmp_path / "file").write_text("")
    occupied = kvatlas("tokenize", "serve", "--listen", f"unix:{tmp_path / 'file'}")
    assert occupied.exit_code in (1, 2)
    assert occupied.stderr.startswith("kvatlas: ") and "file" in occupied.stderr
