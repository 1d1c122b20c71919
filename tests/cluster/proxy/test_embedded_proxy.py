"""A proxy that finds and follows its pods itself: chats by their texts, pods that come, the command."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.chat_scores import MODEL, QUESTIONS, SYSTEM, write_model

import kvatlas
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.embedded import EmbeddedProxy
from kvatlas.cluster.proxy.simulator.running_pods import RunningPods
from kvatlas.index.errors import ClusterError, ConfigError
from kvatlas.ingest.discovery.config import DiscoveryConfig, FileWatchConfig, StaticWatchConfig
from tests.cluster.living_fleet import wait_until

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, path: str, body: object = None) -> tuple[int, Any, Any]:
    """Status, headers, JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    try:
        with _OPENER.open(request, timeout=60) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, json.loads(error.read())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / MODEL)
    return folder


@pytest.fixture(scope="module")
def pods(models: Path) -> Iterator[RunningPods]:
    tokenize = kvatlas.TokenizeConfig(folders=(str(models),))
    with contextlib.closing(kvatlas.Tokenizers(tokenize)) as tokenizers:

        def token_ids_of(body: dict[str, Any]) -> list[int]:
            prompt = tokenizers.tokenize(MODEL, prompt=body.get("prompt"), messages=body.get("messages"))
            ids: list[int] = prompt.token_ids.tolist()
            return ids

        with RunningPods(2, MODEL, token_ids_of=token_ids_of) as pods:
            yield pods


def config_of(models: Path, *watches: Any) -> ClusterConfig:
    return ClusterConfig(
        discovery=DiscoveryConfig(watches=watches),
        tokenize=kvatlas.TokenizeConfig(folders=(str(models),)),
        proxy=ProxyConfig(host="127.0.0.1"),
    )


@pytest.fixture(scope="module")
def proxy(models: Path, pods: RunningPods) -> Iterator[EmbeddedProxy]:
    with EmbeddedProxy(config_of(models, StaticWatchConfig(pods=pods.entries)), port=0) as proxy:
        proxy.wait_ready(60)
        yield proxy


@pytest.mark.parametrize("stream", [False, True])
def test_the_turns_of_a_chat_go_where_it_was_before(proxy: EmbeddedProxy, stream: bool) -> None:
    messages = [{"role": "system", "content": f"{stream} {2 * SYSTEM}"}]
    seen = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        body = {"model": MODEL, "messages": messages, "max_tokens": 3, "stream": stream}
        request = urllib.request.Request(proxy.url + "/v1/chat/completions", json.dumps(body).encode())
        with _OPENER.open(request, timeout=60) as answer:
            answer.read()
            request_id = answer.headers["x-kvatlas-request-id"]
        _, _, receipt = ask(proxy.url, f"/v1/receipts/{request_id}")
        assert receipt["predicted_cached_tokens"] == receipt["actual_cached_tokens"]
        seen.append((answer.headers["x-kvatlas-pod"], receipt["actual_cached_tokens"]))
        messages.append({"role": "assistant", "content": "So it is."})
    (first, nothing), *later = seen
    assert nothing == 0
    assert all(pod == first and cached > 0 for pod, cached in later)


def test_a_completion_of_a_text_is_scored_by_its_tokens(proxy: EmbeddedProxy) -> None:
    text = "the cache of a prompt " * 20
    first = ask(proxy.url, "/v1/completions", {"model": MODEL, "prompt": text})
    again = ask(proxy.url, "/v1/completions", {"model": MODEL, "prompt": text + " and more"})
    assert again[1]["x-kvatlas-pod"] == first[1]["x-kvatlas-pod"]
    assert int(again[1]["x-kvatlas-predicted-cached-tokens"]) > 0


def test_a_chat_that_its_template_refuses_is_the_pods_to_judge(proxy: EmbeddedProxy) -> None:
    before = proxy.proxy.statistics().counts.get("unread_prompts", 0)
    template = "{{ raise_exception('not so') }}"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "chat_template": template}
    status, headers, _ = ask(proxy.url, "/v1/chat/completions", body)
    assert (status, headers["x-kvatlas-predicted-cached-tokens"]) == (200, "0")
    assert proxy.proxy.statistics().counts["unread_prompts"] == before + 1


def test_pods_that_a_file_names_are_served_as_they_come(
    models: Path, pods: RunningPods, tmp_path: Path
) -> None:
    listed = tmp_path / "pods.json"
    listed.write_text("[]")
    watch = FileWatchConfig(path=str(listed), look_every_s=0.05, settle_s=0.05)
    with EmbeddedProxy(config_of(models, watch), port=0) as proxy:
        assert ask(proxy.url, "/health")[0] == 503
        with pytest.raises(ClusterError, match="a pod with a url"):
            proxy.wait_ready(0.1)
        serving = {"pod": "pod-a", "model": MODEL, "serving": {"url": pods.pods[0].url}}
        listed.write_text(json.dumps([serving]))
        proxy.wait_ready(60)
        assert ask(proxy.url, "/v1/completions", {"model": MODEL, "prompt": "text"})[0] == 200


def test_a_port_that_is_taken_is_said(models: Path, proxy: EmbeddedProxy) -> None:
    taken = int(proxy.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=str(taken)):
        EmbeddedProxy(config_of(models), port=taken)


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_end(models: Path, pods: RunningPods) -> None:
    given = [f"--pod={one.url},{one.events},{one.replays}" for one in pods.pods]
    command = [sys.executable, "-m", "kvatlas.cluster.cli", "proxy", *given, "--model", MODEL]
    code = "import sys; from kvatlas.cluster.cli import main; sys.argv[0] = 'kvatlas'; main()"
    command = [sys.executable, "-c", code, *command[3:], "--folder", str(models)]
    command += ["--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        try:
            url = said.split()[-1].removesuffix("/v1")
            wait_until(lambda: ask(url, "/health")[0] == 200, 60)
            status, headers, _ = ask(url, "/v1/completions", {"model": MODEL, "prompt": "a text"})
            assert (status, headers["x-kvatlas-pod"] in {one.url[7:] for one in pods.pods}) == (200, True)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, process.stderr.read()
