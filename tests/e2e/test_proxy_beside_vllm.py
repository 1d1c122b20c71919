"""Chats through the proxy to two real model servers: what they reuse, beside round robin on the same ones."""

from __future__ import annotations

import contextlib
import json
import random
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kvatlas import TokenizeConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.embedded import EmbeddedProxy
from kvatlas.index.choosing.serving import Serving
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig
from kvatlas.ingest.discovery.entries import PodEntry
from tests.actors.link.link_peers import wait_until
from tests.e2e.chat_tokenizer import write_chat_tokenizer
from tests.e2e.vllm_server import MODEL_NAME, VllmServer, write_tiny_model

pytestmark = pytest.mark.timeout(420)  # two servers start for it

_CHATS, _TURNS = 7, 5
_WAIT_S_MAX = 60.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_WORDS = ("router", "atlas", "server", "block", "prompt", "prefill", "cache", "weather", "Paris", "token")


@dataclass(frozen=True)
class Told:
    """What one answer said of itself."""

    pod: str
    text: str
    prompt_tokens: int
    cached_tokens: int
    predicted_tokens: int
    request_id: str


@pytest.fixture(scope="module")
def fleet(
    vllm_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[VllmServer]]]:
    folder = tmp_path_factory.mktemp("proxied")
    write_chat_tokenizer(folder / "plain")
    model = write_tiny_model(vllm_python, folder, "plain")
    with contextlib.ExitStack() as started:
        servers = [
            started.enter_context(VllmServer(vllm_python, model, folder, pod=f"pod{n}", blocks=96))
            for n in range(2)
        ]
        for server in servers:
            server.wait_until_healthy()
        yield model, servers


@contextlib.contextmanager
def proxy_before(fleet: tuple[Path, list[VllmServer]], policy: str) -> Iterator[EmbeddedProxy]:
    """Servers with empty caches, all of them followed."""
    model, servers = fleet
    entries = tuple(
        PodEntry(
            pod=server.pod,
            endpoint=server.events_endpoint,
            replay_endpoint=server.replay_endpoint,
            model=MODEL_NAME,
            serving=Serving(url=f"http://127.0.0.1:{server.http_port}"),
        )
        for server in servers
    )
    config = ClusterConfig(
        discovery=DiscoveryConfig(watches=(StaticWatchConfig(pods=entries),)),
        tokenize=TokenizeConfig(models={MODEL_NAME: str(model)}),
        choosing=ChoosingConfig(policy=policy),
        proxy=ProxyConfig(host="127.0.0.1"),
    )
    with EmbeddedProxy(config, port=0) as proxy:
        for server in servers:
            server.reset_prefix_cache()
            server.chat([{"role": "user", "content": server.pod * 40}])
            server.reset_prefix_cache()
        until(lambda: states(proxy) == ["EXACT", "EXACT"])
        yield proxy


def states(proxy: EmbeddedProxy) -> list[str]:
    return [worker.truth.state for worker in proxy.fleet.atlas.statistics().workers]


def until(condition: Any) -> None:
    deadline_s = time.monotonic() + _WAIT_S_MAX
    while not condition():
        assert time.monotonic() < deadline_s, f"not so in {_WAIT_S_MAX} s"
        time.sleep(0.05)


def ask(proxy: EmbeddedProxy, messages: list[dict[str, str]], *, stream: bool) -> Told:
    fields: dict[str, Any] = {"max_tokens": 16, "temperature": 0, "ignore_eos": True, "stream": stream}
    if stream:
        fields["stream_options"] = {"include_usage": True}
    body = json.dumps({"model": MODEL_NAME, "messages": messages, **fields}).encode()
    request = urllib.request.Request(
        proxy.url + "/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with _OPENER.open(request, timeout=_WAIT_S_MAX) as answer:
        headers, content = answer.headers, answer.read()
    usage, text = _streamed(content) if stream else _whole(content)
    return Told(
        pod=headers["x-kvatlas-pod"],
        text=text,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=(usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0,
        predicted_tokens=int(headers["x-kvatlas-predicted-cached-tokens"]),
        request_id=headers["x-kvatlas-request-id"],
    )


def _whole(content: bytes) -> tuple[dict[str, Any], str]:
    answer = json.loads(content)
    return answer["usage"], answer["choices"][0]["message"]["content"]


def _streamed(content: bytes) -> tuple[dict[str, Any], str]:
    parts = [json.loads(part[6:]) for part in content.split(b"\n\n") if part and b"[DONE]" not in part]
    texts = [one["delta"].get("content") or "" for part in parts for one in part["choices"]]
    return next(part["usage"] for part in parts if part.get("usage")), "".join(texts)


def converse(proxy: EmbeddedProxy, seed: int) -> list[Told]:
    """Chats whose turns come mixed; every other question is answered as a stream."""
    source = random.Random(seed)
    chats = [[{"role": "system", "content": " ".join(source.choices(_WORDS, k=60))}] for _ in range(_CHATS)]
    turns = [chat for chat in chats for _ in range(_TURNS)]
    source.shuffle(turns)
    told = []
    for number, chat in enumerate(turns):
        chat.append({"role": "user", "content": " ".join(source.choices(_WORDS, k=20))})
        told.append(ask(proxy, chat, stream=bool(number % 2)))
        chat.append({"role": "assistant", "content": " ".join(source.choices(_WORDS, k=8))})
    return told


def test_chats_reuse_more_through_the_proxy_than_dealt_in_turn(
    fleet: tuple[Path, list[VllmServer]], record_property: Any
) -> None:
    with proxy_before(fleet, "round_robin") as proxy:
        dealt = converse(proxy, seed=21)
    with proxy_before(fleet, "weighted") as proxy:
        chosen = converse(proxy, seed=21)
        chooser = proxy.fleet.chooser
        # A client has the last of its answer a moment before the proxy has settled the account.
        wait_until(lambda: chooser.statistics().in_flight == 0)
        with _OPENER.open(f"{proxy.url}/v1/receipts/{chosen[-1].request_id}", timeout=10) as answer:
            receipt = json.loads(answer.read())
    assert [one.prompt_tokens for one in chosen] == [one.prompt_tokens for one in dealt]
    assert {one.pod for one in chosen} == {one.pod for one in dealt} == {"pod0", "pod1"}
    cached = [sum(one.cached_tokens for one in run) for run in (chosen, dealt)]
    prompts = sum(one.prompt_tokens for one in chosen)
    record_property("cached", f"{cached[0]} of {prompts} tokens by choice, {cached[1]} dealt in turn")
    print(f"cached: {cached[0]} of {prompts} tokens by choice, {cached[1]} dealt in turn")
    assert cached[0] > 1.2 * cached[1]
    for one in chosen:
        assert one.predicted_tokens == one.cached_tokens, one
    assert receipt["actual_cached_tokens"] == chosen[-1].cached_tokens
