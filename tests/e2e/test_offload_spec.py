"""KvatlasOffloadingSpec in real model servers: what comes back from files is what was computed, or it is
computed again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conversations import fresh_prompt
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME, VllmServer, write_tiny_model
from tests.e2e.warm_servers import WarmServer, WarmVllm

pytestmark = pytest.mark.timeout(600)  # the first test of each server waits for it to start

_BLOCK_BYTES = 16 * 1024  # 2 layers, keys and values, 32 tokens, 32 floats
_WINDOW_BLOCKS = 40
_WAIT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What a server says to a prompt: tokens, their log-probabilities, and how much of the prompt it had."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached_tokens: int

    def same_as(self, other: Answer) -> bool:
        return self.token_ids == other.token_ids and self.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def ask(server: VllmServer, prompt: Sequence[int]) -> Answer:
    body = {
        "model": MODEL_NAME,
        "prompt": list(prompt),
        "max_tokens": 6,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "logprobs": 1,
    }
    answer = json.loads(server.request("/v1/completions", body))
    (choice,) = answer["choices"]
    cached = (answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens") or 0
    return Answer(tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"]), cached)


def metric(server: VllmServer, name: str, **labels: str) -> float:
    """The sum of a metric's values whose labels are these."""
    total = 0.0
    for line in server.request("/metrics").decode().splitlines():
        if line.startswith((name + "{", name + "_total{")) and all(
            f'{k}="{v}"' in line for k, v in labels.items()
        ):
            total += float(line.rpartition(" ")[2])
    return total


def await_(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"expected: {what}"
        time.sleep(0.05)


def chunk_files(store: Path) -> set[Path]:
    return {path for path in store.glob("*/*/*/*.kv") if not path.name.startswith(".")}


@contextmanager
def spec_server(
    warm: WarmVllm,
    model: Path,
    folder: Path,
    store: Path,
    *,
    pod: str = "pod0",
    blocks: int = 64,
    window_blocks: int = _WINDOW_BLOCKS,
    spec: tuple[str, str] = ("KvatlasOffloadingSpec", "kvatlas.offload.spec"),
    connector: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    storage: dict[str, Any] | None = None,
    flags: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    **options: Any,
) -> Iterator[VllmServer]:
    transfer = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        **(connector or {}),
        "kv_connector_extra_config": {
            "spec_name": spec[0],
            "spec_module_path": spec[1],
            "self_describing_kv_events": True,
            **(more or {}),
            "kvatlas": {
                "window_bytes": window_blocks * _BLOCK_BYTES,
                "storage": {"root": str(store), **(storage or {})},
                **options,
            },
        },
    }
    server = WarmServer(
        warm,
        model,
        folder,
        pod=pod,
        blocks=blocks,
        flags=("--kv-transfer-config", json.dumps(transfer), *flags),
        environment=environment or {},
    )
    with server:
        server.wait_until_healthy()
        yield server


def prompts(first: int, count: int, blocks: int = 3) -> list[list[int]]:
    return [list(fresh_prompt(seed, blocks * BLOCK_SIZE_TOKENS + 5)) for seed in range(first, first + count)]


def written(server: VllmServer, store: Path, blocks: int) -> None:
    await_(lambda: len(chunk_files(store)) >= blocks, f"{blocks} files, there are {len(chunk_files(store))}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "kv"


@pytest.fixture(scope="module")
def server(
    warm: WarmVllm, tiny_model: Path, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    folder = tmp_path_factory.mktemp("server")
    # A store that says nothing is given up soon here: a test makes it hang.
    storage = {
        "time_limit_s": 3.0,
        "write_budget_s": 2.0,
        "absent_s": 0.2,
        "breaker_s_min": 0.2,
        "breaker_s_max": 1.0,
    }
    with spec_server(warm, tiny_model, folder, store, storage=storage, wait_s_max=1.0) as running:
        yield running


def test_a_prefix_comes_back_from_window_and_files_after_a_reset(server: VllmServer, store: Path) -> None:
    (prompt,) = prompts(1, 1)
    computed = ask(server, prompt)
    assert computed.cached_tokens == 0
    from_gpu = ask(server, prompt)
    assert (from_gpu.cached_tokens, from_gpu.same_as(computed)) == (96, True)
    written(server, store, 3)
    server.reset_prefix_cache()  # the GPU's blocks only
    assert ask(server, prompt) == from_gpu, "from the window, equal to the last digit"
    server.request("/reset_prefix_cache?reset_external=true", {})  # the window, too
    assert ask(server, prompt) == from_gpu, "from files"
    assert metric(server, "kvatlas_offload_loaded_chunks") == 3


def test_a_prefix_comes_back_after_eviction_from_gpu_and_window(server: VllmServer, store: Path) -> None:
    (prompt,) = prompts(10, 1)
    computed, from_gpu = ask(server, prompt), ask(server, prompt)
    assert (from_gpu.cached_tokens, from_gpu.same_as(computed)) == (96, True)
    before = len(chunk_files(store))
    for number, other in enumerate(prompts(11, 5, blocks=18), 1):
        ask(server, other)
        written(server, store, before + 18 * number)
    loaded = metric(server, "kvatlas_offload_loaded_chunks")
    assert ask(server, prompt) == from_gpu
    assert metric(server, "kvatlas_offload_loaded_chunks") == loaded + 3
    assert metric(server, "kvatlas_offload_window_evicted_chunks") > 0


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_damaged_files_give_right_tokens_and_a_counter(server: VllmServer, store: Path, damage: str) -> None:
    (prompt,) = prompts({"flipped": 30, "truncated": 31, "deleted": 32}[damage], 1)
    before = chunk_files(store)
    computed = ask(server, prompt)
    written(server, store, len(before) + 3)
    for path in sorted(chunk_files(store) - before):
        _damage(path, damage)
    server.request("/reset_prefix_cache?reset_external=true", {})
    again = ask(server, prompt)
    assert (again.cached_tokens, again.same_as(computed)) == (0, True)
    if damage != "deleted":
        assert metric(server, "kvatlas_offload_failures", reason="corrupt") > 0
    await_(lambda: chunk_files(store) >= before, "the files are written anew")


def _damage(path: Path, damage: str) -> None:
    if damage == "deleted":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[4096 + 1000] ^= 1
    path.write_bytes(content)


def test_requests_go_on_while_a_file_hangs(server: VllmServer, store: Path) -> None:
    """A pipe in a file's place: to open it waits for ever, as on a mount whose server is gone."""
    (prompt,) = prompts(40, 1)
    before = chunk_files(store)
    computed = ask(server, prompt)
    written(server, store, len(before) + 3)
    for path in chunk_files(store) - before:
        path.unlink()
        os.mkfifo(path)
    server.request("/reset_prefix_cache?reset_external=true", {})
    again = ask(server, prompt)
    assert again.same_as(computed)
    other = ask(server, prompts(41, 1)[0])
    assert len(other.token_ids) == 6
    for path in chunk_files(store) - before:
        path.unlink(missing_ok=True)


def test_a_second_server_on_the_same_store_has_the_prefix(
    warm: WarmVllm,
    tiny_model: Path,
    tmp_path: Path,
    server: VllmServer,
    store: Path,
) -> None:
    (prompt,) = prompts(50, 1, blocks=10)
    before = len(chunk_files(store))
    computed, from_gpu = ask(server, prompt), ask(server, prompt)
    assert (from_gpu.cached_tokens, from_gpu.same_as(computed)) == (320, True)
    written(server, store, before + 10)
    with spec_server(warm, tiny_model, tmp_path, store, pod="pod1") as second:
        await_(lambda: metric(second, "kvatlas_offload_known_chunks") >= before, "the inventory")
        assert ask(second, prompt) == from_gpu
        second.kill()
    with spec_server(warm, tiny_model, tmp_path, store, pod="pod2") as restarted:
        assert ask(restarted, prompt) == from_gpu


# --- failed copies, chunks of two blocks --------------------------------------------------------------------

_SURVIVING = {
    "kv_connector": "KvatlasConnector",
    "kv_connector_module_path": "kvatlas.offload.connector",
    "kv_load_failure_policy": "recompute",
}


@pytest.fixture(scope="module", params=["plain", "windowed"])
def failing(
    request: pytest.FixtureRequest, warm: WarmVllm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    """A server with KvatlasConnector, chunks of two blocks, and copies that fail when a file says so."""
    folder = tmp_path_factory.mktemp(f"failing_{request.param}")
    with spec_server(
        warm,
        write_tiny_model(warm.python, folder, request.param),
        folder,
        folder / "kv",
        spec=("FailingSpec", "tests.e2e.failing_spec"),
        connector=_SURVIVING,
        more={"blocks_per_chunk": 2},
        blocks=128,  # all groups of the windowed model take theirs from one pool
        window_blocks=1000,
        environment={"PYTHONPATH": str(Path(__file__).parents[2])},
    ) as running:
        yield running


def _reload(server: VllmServer, prompt: Sequence[int]) -> Answer:
    server.reset_prefix_cache()
    return ask(server, prompt)


def test_a_request_whose_load_fails_computes_and_the_engine_lives(failing: VllmServer) -> None:
    (prompt,) = prompts(60, 1, blocks=8)
    computed = ask(failing, prompt)
    assert computed.cached_tokens == 0
    loaded = _reload(failing, prompt)
    assert (loaded.cached_tokens, loaded.same_as(computed)) == (256, True)
    (failing.folder / "fail-loads").touch()
    for times in (1, 2):
        again = _reload(failing, prompt)
        assert again.same_as(computed)
        assert again.cached_tokens == 0
        assert metric(failing, "kvatlas_offload_failed_device_loads") == times
    (failing.folder / "fail-loads").unlink()
    loaded = _reload(failing, prompt)
    assert (loaded.cached_tokens, loaded.same_as(computed)) == (256, True)


def test_a_store_that_fails_is_not_there_and_the_engine_lives(failing: VllmServer) -> None:
    (prompt,) = prompts(61, 1, blocks=8)
    (failing.folder / "fail-stores").touch()
    computed = ask(failing, prompt)
    await_(lambda: metric(failing, "kvatlas_offload_failed_device_stores") > 0, "a failed store")
    (failing.folder / "fail-stores").unlink()
    again = _reload(failing, prompt)
    assert (again.cached_tokens, again.same_as(computed)) == (0, True)
    third = _reload(failing, prompt)
    assert (third.cached_tokens, third.same_as(computed)) == (256, True)


def test_a_load_that_begins_inside_a_chunk_brings_the_right_blocks(failing: VllmServer) -> None:
    (prompt,) = prompts(62, 1, blocks=8)
    computed = ask(failing, prompt)
    failing.reset_prefix_cache()
    begin = 5 * BLOCK_SIZE_TOKENS  # in the middle of the third chunk
    ask(failing, [*prompt[:begin], *fresh_prompt(63, 40)])
    loads = metric(failing, "vllm:kv_offload_load_bytes")
    failing.reset_prefix_cache()
    (failing.folder / "fail-loads").touch()
    ask(failing, [*prompt[:begin], *fresh_prompt(64, 40)])  # the GPU has the first five blocks, computed
    (failing.folder / "fail-loads").unlink()
    again = ask(failing, prompt)
    assert (again.cached_tokens, again.same_as(computed)) == (256, True)
    assert metric(failing, "vllm:kv_offload_load_bytes") > loads


# --- several workers; our copies under vLLM's own tiers -----------------------------------------------------


def test_two_tensor_parallel_workers_have_their_own_places_in_a_chunk(
    warm: WarmVllm, tiny_model: Path, tmp_path: Path
) -> None:
    (prompt,) = prompts(70, 1)
    store, flags = tmp_path / "kv", ("--tensor-parallel-size", "2")
    ranks = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    computed: Answer | None = None
    for pod in ("pod0", "pod1"):
        with spec_server(
            warm, tiny_model, tmp_path, store, pod=pod, flags=flags, environment=ranks
        ) as server:
            answer = ask(server, prompt)
            if computed is None:
                computed = answer
                assert computed.cached_tokens == 0
                written(server, store, 3)
                server.request("/reset_prefix_cache?reset_external=true", {})
                answer = ask(server, prompt)
            assert (answer.cached_tokens, answer.same_as(computed)) == (96, True)


def test_vllms_own_tiers_run_on_a_cpu_with_our_copies(
    warm: WarmVllm, tiny_model: Path, tmp_path: Path
) -> None:
    (prompt,) = prompts(71, 1)
    store = tmp_path / "kv"
    tiers = {
        "cpu_bytes_to_use": _WINDOW_BLOCKS * _BLOCK_BYTES,
        "secondary_tiers": [
            {"type": "KvatlasTier", "module_path": "kvatlas.offload.tier", "root": str(store)}
        ],
    }
    with spec_server(
        warm,
        tiny_model,
        tmp_path,
        store,
        spec=("KvatlasTieringSpec", "kvatlas.offload.spec"),
        more=tiers,
    ) as server:
        computed = ask(server, prompt)
        written(server, store, 3)
        server.reset_prefix_cache()
        from_memory = ask(server, prompt)
        assert (from_memory.cached_tokens, from_memory.same_as(computed)) == (96, True)
        server.request("/reset_prefix_cache?reset_external=true", {})
        from_files = ask(server, prompt)
        assert (from_files.cached_tokens, from_files.same_as(computed)) == (96, True)
