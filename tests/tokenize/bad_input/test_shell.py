"""The commands, given files and words that mean harm: one line on stderr, nothing on stdout, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvatlas.cluster.cli import app

pytestmark = pytest.mark.timeout(120)
ARGUMENTS = json.dumps({"refuse": "\ud800 a\r\nERROR\x1b[2J"})
CALL = {"type": "function", "function": {"name": "f", "arguments": ARGUMENTS}}
FILES: dict[str, tuple[str, bytes | Callable[[], bytes]]] = {
    "bytes that are no text": ("--prompt-file", b"\xff\xfe"),
    "100 MB": ("--prompt-file", lambda: b"x" * (100 << 20)),
    "bytes that are no JSON": ("--chat", b"\xff"),
    "half of a JSON": ("--chat", b'{"messages": [{"role": "us'),
    "a million brackets": ("--chat", b"[" * 1_000_000),
    "a number": ("--chat", b"5"),
    "nothing": ("--chat", b""),
    "no messages": ("--chat", b'{"messages": null}'),
    "a lone surrogate": ("--chat", b'[{"role": "user", "content": "\\ud800"}]'),
    "100 000 messages": ("--chat", lambda: json.dumps([{"role": "user", "content": "x"}] * 100_000).encode()),
    "a role that the template refuses": ("--chat", b'[{"role": "bad", "content": "a\\nb\\u001b[2J"}]'),
    "a refusal for terminals": ("--chat", json.dumps([{"role": "assistant", "tool_calls": [CALL]}]).encode()),
    "a name for terminals": (
        "--chat",
        b'[{"role": "user", "content": "x", "\\u001b[2J\\n": [[["\\ud800"]]]}]',
    ),
}


def check_refused(*arguments: object) -> None:
    result = CliRunner().invoke(app, ("tokenize", "encode", *map(str, arguments)))
    assert result.exit_code in (1, 2), result.output[:500]
    assert result.stdout == ""
    assert result.stderr.startswith("kvatlas: ") and result.stderr.endswith("\n")
    assert result.stderr[:-1].isprintable() and len(result.stderr) < 2500, result.stderr[:3000]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_hostile_file_is_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    option, content = FILES[name]
    (tmp_path / "given").write_bytes(content if isinstance(content, bytes) else content())
    check_refused("-m", "curious", "--path", folder / "curious", option, tmp_path / "given")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/", "/dev/zero", "/nowhere", "/proc/self/mem"])
@pytest.mark.parametrize("option", ["--chat", "--prompt-file"])
def test_place_that_is_no_file_is_one_line(folder: Path, option: str, place: str) -> None:
    check_refused("-m", "curious", "--path", folder / "curious", option, place)


@pytest.mark.parametrize("model", ["../curious", "a\nb", "", "x" * 100_000, "\udcff"])
def test_hostile_name_is_one_line(folder: Path, model: str) -> None:
    check_refused("-m", model, "--folder", folder, "--prompt", "x")


@pytest.mark.parametrize("path", ["/dev/zero", "/", "/nowhere"])
def test_place_that_holds_no_tokenizer_is_one_line(path: str) -> None:
    check_refused("-m", "m", "--path", path, "--prompt", "x")
