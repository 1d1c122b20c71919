"""Ray Serve LLM with KvatlasRouter: one line in `request_router_config`.

    python examples/serve_llm.py MODEL            (a Hugging Face name or a folder; needs ray[llm] and GPUs)
    python examples/serve_llm.py MODEL --cpu      (where vLLM's CPU build is installed; minutes to start)

It deploys two replicas, sends chats that begin alike, prints for each what was predicted and what the engine
has reused, and serves on http://127.0.0.1:8000/v1 until Ctrl-C (`--once`: ends instead).
"""

from __future__ import annotations

import argparse
import json
import signal
import time
import urllib.request
from typing import Any

from kvatlas.cluster.serve.llm.environment import prepare_environment

prepare_environment()  # before Ray is imported: it reads these variables once

NAME = "chat"
SYSTEM = "You answer in one word. " * 40


def deploy(model: str, *, cpu: bool, replicas: int, port: int) -> None:
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    hardware: dict[str, Any] = {}
    if cpu:
        hardware = {"accelerator_config": {"kind": "cpu"}, "log_engine_metrics": False}
    config = LLMConfig(
        model_loading_config={"model_id": NAME, "model_source": model},
        deployment_config={
            "num_replicas": replicas,
            # This is the line.
            "request_router_config": {
                "request_router_class": "kvatlas.cluster.serve.llm.router.KvatlasRouter",
            },
        },
        engine_kwargs={
            "enable_prompt_tokens_details": True,
            **({"block_size": 32, "dtype": "float32", "enforce_eager": True} if cpu else {}),
        },
        **hardware,
    )
    if not ray.is_initialized():
        ray.init(num_cpus=16 if cpu else None, log_to_driver=False)
    serve.start(http_options={"port": port})
    serve.run(build_openai_app({"llm_configs": [config]}), name="default")


def chat(port: int, number: int, question: str) -> tuple[str, int]:
    """The request's id, and how many tokens of its prompt the engine has reused."""
    request_id = f"chat-{number}"
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=json.dumps({"model": NAME, "messages": messages, "max_tokens": 8}).encode(),
        headers={"Content-Type": "application/json", "x-request-id": request_id},
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        usage = json.load(answer)["usage"]
    return request_id, (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def main() -> None:
    from kvatlas.cluster.serve.llm.asking import receipt, statistics

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    deploy(asked.model, cpu=asked.cpu, replicas=asked.replicas, port=asked.port)
    for number, question in enumerate(("Where?", "When?", "Where, and when?", "Why?")):
        request_id, cached_tokens = chat(asked.port, number, question)
        told = receipt(request_id)
        print(
            f"{request_id} to {told['pod']}: of {told['prompt_tokens']} tokens"
            f" {told['predicted_cached_tokens']} foretold as reused, {cached_tokens} reused"
        )
        time.sleep(0.5)  # as long as a reader takes; events come within milliseconds
    for router in statistics():
        print(f"{router.chosen} requests chosen for, {router.p50_us:.0f} us each")
    if not asked.once:
        print(f"serving on http://127.0.0.1:{asked.port}/v1")
        signal.pause()


if __name__ == "__main__":
    main()
