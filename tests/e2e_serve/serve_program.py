"""Ray Serve LLM with two replicas: `python serve_program.py`, then one command a line, one answer a line.

Commands are JSON lists: ["deploy", {...}], ["remove"], ["statistics"], ["receipt", id, salt], ["kill"].
Answers are JSON: {"answer": ...} or {"error": ...}. It runs by the Python that has vLLM.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from kvatlas.cluster.serve.llm.environment import prepare_environment

prepare_environment()

ROUTERS = {
    "kvatlas": "tests.e2e_serve.timed_routers.TimedKvatlasRouter",
    "ray": "tests.e2e_serve.timed_routers.TimedRayRouter",
}
REPLICAS = 2
MODEL_NAME = "tiny"
BLOCK_SIZE_TOKENS = 32
DEPLOY_S_MAX = 600.0


def deploy(options: dict[str, Any]) -> dict[str, float]:
    """Options: router, model (a folder), port, events_port, tokens_port, blocks."""
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    began_s = time.monotonic()
    serve.start(http_options={"port": options["port"], "host": "127.0.0.1"})
    settings: Any = {"accelerator_config": {"kind": "cpu"}}
    config = LLMConfig(
        **settings,
        model_loading_config={"model_id": MODEL_NAME, "model_source": options["model"]},
        log_engine_metrics=False,
        deployment_config={
            "num_replicas": REPLICAS,
            "ray_actor_options": {"num_cpus": 1},
            "request_router_config": {
                "request_router_class": ROUTERS[options["router"]],
                "request_router_kwargs": options.get("kwargs", {}),
                "request_routing_stats_period_s": 1.0,
            },
        },
        experimental_configs={
            "KV_EVENTS_PORT_BASE": options["events_port"],
            "KV_TOKEN_PORT_BASE": options["tokens_port"],
        },
        engine_kwargs={
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 2048,
            "block_size": BLOCK_SIZE_TOKENS,
            "max_num_seqs": 8,
            "num_gpu_blocks_override": options["blocks"],
            "enable_prompt_tokens_details": True,
        },
    )
    serve.run(build_openai_app({"llm_configs": [config]}), name="default", blocking=False)
    deadline_s = time.monotonic() + DEPLOY_S_MAX
    while not _is_running():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not running within {DEPLOY_S_MAX} s: {serve.status()}")
        time.sleep(0.5)
    return {"deploy_s": time.monotonic() - began_s}


def _is_running() -> bool:
    from ray import serve

    application = serve.status().applications["default"]
    if application.status == "DEPLOY_FAILED":
        raise RuntimeError(application.message)
    return bool(application.status == "RUNNING")


def remove() -> None:
    from ray import serve

    serve.delete("default")


def statistics() -> Any:
    import msgspec

    from kvatlas.cluster.serve.llm.asking import statistics

    return msgspec.to_builtins(statistics())


def receipt(request_id: str, cache_salt: str | None = None) -> Any:
    from kvatlas.cluster.serve.llm.asking import receipt

    return receipt(request_id, cache_salt=cache_salt)


def kill() -> str:
    """Kills one replica, as a crash does."""
    import ray
    from ray.util.state import list_actors

    actors: list[Any] = list_actors(filters=[("state", "=", "ALIVE")], limit=1000)
    names = [
        actor.name
        for actor in actors
        if actor.name and "SERVE_REPLICA" in actor.name and "LLMServer" in actor.name
    ]
    ray.kill(ray.get_actor(names[0], namespace="serve"))
    return str(names[0])


COMMANDS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (deploy, remove, statistics, receipt, kill)
}


def main() -> None:
    import ray

    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    try:
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            try:
                answer = {"answer": COMMANDS[name](*arguments)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=_OUT, flush=True)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    # What Ray prints is no answer.
    _OUT, sys.stdout = sys.stdout, sys.stderr
    main()
