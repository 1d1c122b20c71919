"""One URL for a fleet: requests go through the proxy to the pod that holds most of them, without Ray.

    python examples/proxy.py

The pods are simulated; their caches and events are not. Prompts are token ids here. For your own servers,
with chats and texts, whose tokenizer is looked for in a folder:

    kvatlas proxy --model NAME --folder /models --pod http://HOST:8000 --pod http://HOST:8001
"""

from __future__ import annotations

import json
import random
import urllib.request
from typing import Any

from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.embedded import EmbeddedProxy
from kvatlas.cluster.proxy.simulator.running_pods import RunningPods
from kvatlas.ingest.discovery.config import DiscoveryConfig, StaticWatchConfig

MODEL = "some/model"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url: str, body: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Headers and JSON, as any client of OpenAI's API asks for them."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with _OPENER.open(request, timeout=30) as answer:
        return answer.headers, json.loads(answer.read())


def converse(url: str, turns: int) -> str:
    """A prompt that grows from turn to turn, as chats do; returns the id of its last request."""
    words = random.Random(1)
    prompt: list[int] = []
    pods: set[str] = set()
    request_id = ""
    for _ in range(turns):
        prompt += [words.randrange(30_000) for _ in range(100)]
        headers, body = fetch(f"{url}/v1/completions", {"model": MODEL, "prompt": prompt, "max_tokens": 8})
        foretold = headers["x-kvatlas-predicted-cached-tokens"]
        reused = body["usage"]["prompt_tokens_details"]["cached_tokens"]
        print(f"{len(prompt)} tokens: {foretold} foretold as reused, {reused} reused")
        pods.add(headers["x-kvatlas-pod"])
        request_id = headers["x-kvatlas-request-id"]
    print(f"pods asked: {len(pods)}")
    return request_id


def main() -> None:
    with RunningPods(2, MODEL) as pods:
        config = ClusterConfig(
            discovery=DiscoveryConfig(watches=(StaticWatchConfig(pods=pods.entries),)),
            proxy=ProxyConfig(host="127.0.0.1"),
        )
        with EmbeddedProxy(config, port=0) as proxy:
            proxy.wait_ready(30)
            request_id = converse(proxy.url, turns=3)
            _, receipt = fetch(f"{proxy.url}/v1/receipts/{request_id}")
            print(
                f"receipt: {receipt['predicted_cached_tokens']} predicted, "
                f"{receipt['actual_cached_tokens']} actual"
            )


if __name__ == "__main__":
    main()
