"""Models of the hub, through its real library, which asks a server on this machine.

In a process of its own each: the library reads its environment once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tokenize.loading.hub_server import HubServer, hub_server
from tests.tokenize.loading.model_files import write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ASK = """
import json, sys, msgspec
from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.tokenizers import Tokenizers
config, model = json.loads(sys.argv[1])
try:
    prompt = Tokenizers(msgspec.convert(config, TokenizeConfig)).encode(model, "The dog<|a|>")
    print(json.dumps([prompt.served_by, prompt.token_ids.tolist()]))
except TokenizerError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    files = write_model(tmp_path / "published")
    (files / "additional_chat_templates").mkdir()
    (files / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    with hub_server() as server:
        server.models["org/tiny"] = {
            path.relative_to(files).as_posix(): path.read_bytes()
            for path in files.rglob("*")
            if path.is_file()
        }
        server.models["org/tiny"]["model.safetensors"] = b"weights"
        yield server


def ask(
    url: str, home: Path, model: str = "org/tiny", order: tuple[str, ...] = ("hub",), **settings: Any
) -> tuple[str, Any]:
    """(who served, ids), or (kind of error, what it says)."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    offline = settings.pop("offline", False)
    variables |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1" if offline else "0"}
    config = {"order": order, "hub": {"allowed": True, "timeout_s": 60.0, **settings}}
    run = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps([config, model])],
        env=variables,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert b"Fetching" not in run.stderr
    kind, said = json.loads(run.stdout)
    return kind, said


def test_only_the_tokenizers_files_are_fetched(hub: HubServer, tmp_path: Path) -> None:
    served_by, ids = ask(hub.url, tmp_path / "home")
    assert served_by == f"hub:org/tiny@{hub.commit('org/tiny')}"
    assert len(ids) > 1
    assert sorted(hub.downloaded) == [
        "org/tiny/additional_chat_templates/tool_use.jinja",
        "org/tiny/tokenizer.json",
        "org/tiny/tokenizer_config.json",
    ]


def test_what_was_fetched_serves_without_the_hub(hub: HubServer, tmp_path: Path) -> None:
    _, ids = ask(hub.url, tmp_path / "home")
    snapshot = tmp_path / "home" / "hub" / "models--org--tiny" / "snapshots" / hub.commit("org/tiny")
    for order, served_by in ((("hub",), f"hub:org/tiny@{snapshot.name}"), (("cache",), f"files:{snapshot}")):
        for offline in (True, False):
            found = ask("http://127.0.0.1:1", tmp_path / "home", order=order, offline=offline)
            assert found == (served_by, ids)


def test_hub_that_is_not_allowed_is_not_asked(hub: HubServer, tmp_path: Path) -> None:
    kind, said = ask(hub.url, tmp_path / "home", allowed=False)
    assert kind == "TokenizerError" and "hub.allowed" in said
    assert not hub.downloaded


@pytest.mark.parametrize("offline", [True, False])
def test_hub_out_of_reach_is_said(tmp_path: Path, offline: bool) -> None:
    kind, said = ask("http://127.0.0.1:1", tmp_path / "home", offline=offline)
    assert kind == "TokenizerError" and "cannot be reached" in said


def test_hub_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        kind, said = ask(url, tmp_path / "home", timeout_s=0.5)
    assert kind == "TokenizerError" and "0.5 s" in said


def test_private_model_is_fetched_with_the_token_alone(hub: HubServer, tmp_path: Path) -> None:
    hub.private.add("org/tiny")
    kind, said = ask(hub.url, tmp_path / "home")
    assert kind == "TokenizerError" and "token" in said
    (tmp_path / "token").write_text(f"{HubServer.TOKEN}\n")
    served_by, _ = ask(hub.url, tmp_path / "home", token_file=str(tmp_path / "token"))
    assert served_by.startswith("hub:org/tiny@")


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_token_file_without_a_token_is_named(hub: HubServer, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    kind, said = ask(hub.url, tmp_path / "home", token_file=str(path))
    assert kind == "TokenizerError" and str(path) in said


def test_gated_model_is_said(hub: HubServer, tmp_path: Path) -> None:
    hub.gated.add("org/tiny")
    kind, said = ask(hub.url, tmp_path / "home")
    assert kind == "TokenizerError" and "grant access" in said


@pytest.mark.parametrize("model", ["org/none", "a/b/c", "not a name", "org/tiny"])
def test_model_or_revision_that_is_not_there_is_said(hub: HubServer, tmp_path: Path, model: str) -> None:
    revision = "v9" if model == "org/tiny" else None
    kind, said = ask(hub.url, tmp_path / "home", model, revision=revision)
    assert kind == "TokenizerError" and model in said and len(said) < 500


def test_model_with_a_tokenizer_of_another_kind_is_named(hub: HubServer, tmp_path: Path) -> None:
    hub.models["org/spm"] = {"tokenizer.model": b"x", "config.json": b"{}"}
    hub.models["org/weights"] = {"config.json": b"{}"}
    assert ask(hub.url, tmp_path / "home", "org/spm")[0] == "UnsupportedModelError"
    kind, said = ask(hub.url, tmp_path / "home", "org/weights")
    assert kind == "TokenizerError" and "tokenizer.json" in said


def test_cache_folder_is_where_it_is_said_to_be(hub: HubServer, tmp_path: Path) -> None:
    cache = tmp_path / "elsewhere"
    ask(hub.url, tmp_path / "home", cache_folder=str(cache))
    assert (cache / "models--org--tiny").is_dir()
    served_by, _ = ask(hub.url, tmp_path / "home", order=("cache",), cache_folder=str(cache))
    assert served_by.startswith(f"files:{cache}")
