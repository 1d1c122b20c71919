"""Parts of Ray that import vLLM, with ours on them; nothing is started but a tokenizer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from kvatlas.cluster.serve.llm import reports, seams
from kvatlas.cluster.serve.llm.routed_request import BATCH_IDS
from kvatlas.cluster.serve.llm.tokenizing import RayTokenizing

# Ray and vLLM warn of themselves; a Ray and a Serve are started.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

ROUTER = "kvatlas.cluster.serve.llm.router.KvatlasRouter"
CHAT = [{"role": "user", "content": "which server holds this prompt"}]


def config(model: Path, **request_router: Any) -> Any:
    from ray.serve.llm import LLMConfig

    settings: Any = {"accelerator_config": {"kind": "cpu"}}
    return LLMConfig(
        **settings,
        model_loading_config={"model_id": "tiny", "model_source": str(model)},
        log_engine_metrics=False,
        deployment_config={"request_router_config": request_router or {"request_router_class": ROUTER}},
        engine_kwargs={"dtype": "float32", "max_model_len": 256, "block_size": 32, "enforce_eager": True},
    )


def test_ray_takes_the_router_for_one_of_its_kind_and_turns_events_on(model: Path) -> None:
    from ray.llm._internal.serve.core.server.builder import build_llm_deployment
    from ray.llm._internal.serve.routing_policies.kv_aware.kv_aware_router import is_kv_aware

    asked = config(model)
    assert is_kv_aware(asked)
    build_llm_deployment(asked)
    assert asked.engine_kwargs["kv_events_config"]["enable_kv_cache_events"] is True


def test_the_router_travels_to_other_processes_by_name_or_by_class(model: Path, tmp_path: Path) -> None:
    from ray.serve.config import RequestRouterConfig

    from kvatlas.cluster.serve.llm.router import KvatlasRouter

    ways: tuple[Any, ...] = (ROUTER, KvatlasRouter)
    for given in ways:
        packed = RequestRouterConfig(request_router_class=given).get_serialized_request_router_cls()
        assert packed is not None
        (tmp_path / "router").write_bytes(packed)
        program = (
            f"import {seams.TOKEN_TRACKING_MODULE} as tracking\n"
            "from ray import cloudpickle\n"
            f"router = cloudpickle.load(open({str(tmp_path / 'router')!r}, 'rb'))\n"
            "from ray.serve.llm.request_router import KVAwareRouter\n"
            "assert issubclass(router, KVAwareRouter), router\n"
            "assert tracking.RequestTokenTracker.reports_to_kvatlas\n"
        )
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_replica_reports_arrival_and_figures_around_what_ray_reports() -> None:
    from vllm.outputs import CompletionOutput, RequestOutput

    class Forwarder:
        def __init__(self) -> None:
            self.said: list[tuple[Any, ...]] = []

        def report(self, *said: Any) -> None:
            self.said.append(said)

    original: Any = import_module(seams.TOKEN_TRACKING_MODULE).RequestTokenTracker
    if hasattr(original, "reports_to_kvatlas"):
        original = original.__mro__[1]
    forwarder = Forwarder()
    tracker = reports.reporting(original, lambda: "pod")(forwarder, "id", report_decode_progress=False)
    for token in (5, 6):
        output = CompletionOutput(0, "", [token], None, None)
        tracker.on_output(RequestOutput("id", None, [1, 2], None, [output], False, num_cached_tokens=32))
    tracker.finish()
    tracker.finish()
    assert forwarder.said == [
        (reports.ARRIVED, "id", "pod"),
        ("on_prefill_complete", "id"),
        (reports.ENDED, "id", "pod", 32, 2),
        ("on_request_completed", "id"),
    ]


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    from ray.llm._internal.serve.routing_policies.kv_aware.vllm.tokenizer import Tokenizer

    return Tokenizer(config(model))


def test_rays_tokenizer_refuses_nothing_that_the_engine_should_refuse(tokenizer: Any) -> None:
    kind = type(tokenizer)
    original = kind.tokenize
    texts = RayTokenizing()
    try:
        assert texts.install()
        assert asyncio.run(tokenizer.tokenize({"model": "tiny", "messages": CHAT}))
        too_long = [{"role": "user", "content": "the " * 5000}]
        assert asyncio.run(tokenizer.tokenize({"model": "tiny", "messages": too_long})) is None
        assert texts.refused == 1
    finally:
        kind.tokenize = original


def test_the_first_text_of_a_batch_is_tokenized_for_the_choice_alone(tokenizer: Any) -> None:
    kind = type(tokenizer)
    original = kind.tokenize
    try:
        assert RayTokenizing().install()
        batch: dict[str, Any] = {"model": "tiny", "prompt": ["one text", "another"], BATCH_IDS: [1]}
        assert asyncio.run(tokenizer.tokenize(batch)) is None
        assert batch[BATCH_IDS] == asyncio.run(tokenizer.tokenize({"model": "tiny", "prompt": "one text"}))
        forged: dict[str, Any] = {"model": "tiny", "prompt": [1, 2], BATCH_IDS: [1]}
        asyncio.run(tokenizer.tokenize(forged))
        assert BATCH_IDS not in forged
    finally:
        kind.tokenize = original
