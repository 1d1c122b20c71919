"""KvatlasTier in a real model server: whatever becomes of files, answers are those of a server without.

A prompt that was stored is answered from the store after a reset, after eviction, by a restarted and by a
second server, with equal tokens and equal log-probabilities. Harmed files and a full disk cost time, never an
answer.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conversations import fresh_prompt
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME, VllmServer
from tests.e2e.warm_servers import WarmServer, WarmVllm

pytestmark = pytest.mark.timeout(600)  # the first test of each server waits for it to start

_PROMPT_TOKENS = 3 * BLOCK_SIZE_TOKENS + 4
_CACHED_TOKENS = 3 * BLOCK_SIZE_TOKENS
_LONG_TOKENS = 18 * BLOCK_SIZE_TOKENS + 5
_CPU_BYTES = 40 * 16 * 1024
"""40 blocks: 2 layers, keys and values, 32 tokens, 32 floats."""
_WAIT_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Answer:
    """What must be equal, and how much of the prompt was taken from a cache."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached_tokens: int


def answer(server: VllmServer, prompt: Sequence[int]) -> Answer:
    body = {
        "model": MODEL_NAME,
        "prompt": list(prompt),
        "max_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "logprobs": 1,
    }
    said = json.loads(server.request("/v1/completions", body))
    (choice,) = said["choices"]
    details = said["usage"]["prompt_tokens_details"] or {}
    return Answer(
        tuple(choice["token_ids"]),
        tuple(choice["logprobs"]["token_logprobs"]),
        details.get("cached_tokens") or 0,
    )


def server_with_tier(
    warm: WarmVllm, model: Path, folder: Path, root: Path, *, pod: str = "first"
) -> VllmServer:
    return WarmServer(warm, model, folder, pod=pod, flags=tier_flags(root))


def tier_flags(root: Path, **options: Any) -> tuple[str, ...]:
    tier = {
        "type": "KvatlasTier",
        "module_path": "kvatlas.offload.tier",
        "root": str(root),
        "name": "e2e",
        "free_bytes_min": 0,
        **options,
    }
    connector = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "KvatlasTieringSpec",
            "spec_module_path": "kvatlas.offload.spec",
            "cpu_bytes_to_use": _CPU_BYTES,
            "secondary_tiers": [tier],
        },
    }
    return ("--kv-transfer-config", json.dumps(connector))


def counter(server: VllmServer, name: str, **labels: str) -> float:
    """A counter's value, summed over the labels that are not given."""
    total = 0.0
    for line in server.request("/metrics").decode().splitlines():
        is_its = line.startswith((f"kvatlas_offload_{name}_total{{", f"kvatlas_offload_{name}{{"))
        if is_its and all(f'{label}="{value}"' in line for label, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


def forget(server: VllmServer) -> None:
    """Empties the device's cache and the CPU tier; files stay."""
    server.request("/reset_prefix_cache?reset_external=true", {})


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + _WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def files_in(root: Path) -> set[Path]:
    return set(root.glob("*/all/*/*.kv"))


@dataclass
class Asked:
    """A server with a store, and the answers of the server without."""

    server: VllmServer
    root: Path
    reference: dict[str, tuple[Answer, Answer]]

    def prompt(self, name: str) -> list[int]:
        return PROMPTS[name]

    def store(self, name: str) -> list[Path]:
        """Answers a prompt that was never asked, waits for its files and returns them."""
        before = files_in(self.root)
        cold, _ = self.reference[name]
        assert answer(self.server, PROMPTS[name]) == cold
        blocks = len(PROMPTS[name]) // BLOCK_SIZE_TOKENS
        wait_until(lambda: len(files_in(self.root) - before) == blocks, f"no {blocks} files of {name}")
        return sorted(files_in(self.root) - before, key=lambda path: path.stat().st_mtime_ns)

    def ask(self, name: str) -> Answer:
        return answer(self.server, PROMPTS[name])

    def warm(self, name: str) -> Answer:
        return self.reference[name][1]


PROMPTS = {
    **{f"short{number}": fresh_prompt(100 + number, _PROMPT_TOKENS) for number in range(8)},
    **{f"long{number}": fresh_prompt(200 + number, _LONG_TOKENS) for number in range(5)},
}


@pytest.fixture(scope="module")
def reference(
    warm: WarmVllm, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Answer, Answer]]:
    """Of a server without any offloading: each prompt's answer when it is new and when it is cached."""
    server = WarmServer(warm, tiny_model, tmp_path_factory.mktemp("reference"), pod="plain", blocks=200)
    with server:
        server.wait_until_healthy()
        return {name: (answer(server, prompt), answer(server, prompt)) for name, prompt in PROMPTS.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores") / "kv"


@pytest.fixture(scope="module")
def asked(
    reference: dict[str, tuple[Answer, Answer]],
    root: Path,
    warm: WarmVllm,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Asked]:
    server = server_with_tier(warm, tiny_model, tmp_path_factory.mktemp("first"), root)
    with server:
        server.wait_until_healthy()
        yield Asked(server, root, reference)


def test_after_a_reset_the_store_answers_as_the_device_would(asked: Asked) -> None:
    asked.store("short0")
    loaded = counter(asked.server, "loaded_chunks", store="e2e")
    forget(asked.server)
    again = asked.ask("short0")
    assert again == asked.warm("short0")
    assert again.cached_tokens == _CACHED_TOKENS
    assert counter(asked.server, "loaded_chunks", store="e2e") == loaded + 3


def test_after_eviction_from_device_and_cpu_memory_the_store_answers(asked: Asked) -> None:
    asked.store("short1")
    loaded = counter(asked.server, "loaded_chunks")
    for number in range(5):  # 90 blocks: more than the device's 63 and the CPU's 40
        asked.store(f"long{number}")
    again = asked.ask("short1")
    assert again == asked.warm("short1") and again.cached_tokens == _CACHED_TOKENS
    assert counter(asked.server, "loaded_chunks") == loaded + 3


def test_a_second_server_on_the_same_store_answers_from_it(
    asked: Asked, warm: WarmVllm, tiny_model: Path, tmp_path: Path
) -> None:
    asked.store("short2")
    second = server_with_tier(warm, tiny_model, tmp_path, asked.root, pod="second")
    with second:
        second.wait_until_healthy()
        got = answer(second, asked.prompt("short2"))
        assert got == asked.warm("short2") and got.cached_tokens == _CACHED_TOKENS
        assert counter(second, "inventory_chunks") >= 3, "it has looked through the store at start"
        # And the other way round, of what the first has never seen.
        cold, again = asked.reference["short7"]
        assert answer(second, asked.prompt("short7")) == cold
        wait_until(lambda: counter(second, "jobs") == 0, "stores go on")
        got = asked.ask("short7")
        assert got == again and got.cached_tokens == _CACHED_TOKENS


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(7000)
        byte = file.read(1)
        file.seek(7000)
        file.write(bytes([byte[0] ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "harm", "reasons"),
    [("short3", flip, {"corrupt"}), ("short4", cut, {"corrupt", "gone"}), ("short5", Path.unlink, {"gone"})],
)
def test_harmed_files_cost_an_answer_nothing_but_time(
    asked: Asked, name: str, harm: Callable[[Path], None], reasons: set[str]
) -> None:
    files = asked.store(name)
    failed = sum(counter(asked.server, "failures", reason=reason) for reason in reasons)
    for path in files:
        harm(path)
    forget(asked.server)
    cold, warm = asked.reference[name]
    got = asked.ask(name)
    assert got == cold, "computed anew: nothing of these files is used"
    assert sum(counter(asked.server, "failures", reason=reason) for reason in reasons) > failed
    assert asked.ask(name) == warm, "the engine lives"


def test_a_restarted_server_answers_from_yesterdays_files(
    asked: Asked, warm: WarmVllm, tiny_model: Path, tmp_path: Path
) -> None:
    asked.store("short6")
    asked.server.stop()
    restarted = server_with_tier(warm, tiny_model, tmp_path, asked.root)
    with restarted:
        restarted.wait_until_healthy()
        for name in ("short6", "short0"):
            got = answer(restarted, asked.prompt(name))
            assert got == asked.warm(name) and got.cached_tokens == _CACHED_TOKENS
        assert counter(restarted, "loaded_chunks") == 6


def test_a_disk_that_fills_up_stops_stores_and_nothing_else(
    reference: dict[str, tuple[Answer, Answer]], warm: WarmVllm, tiny_model: Path, tmp_path: Path
) -> None:
    if warm.small_disk is None:
        pytest.skip("nothing can be mounted here")
    server = server_with_tier(warm, tiny_model, tmp_path, warm.small_disk / "kv")
    with server:
        server.wait_until_healthy()
        for name in (
            "short0",
            "long0",
            "long1",
            "long2",
            "long3",
            "long4",
        ):  # 93 files; the disk has room for 50
            got = answer(server, PROMPTS[name])
            assert got == reference[name][0]
        assert counter(server, "failures", reason="no_space") > 0
        assert counter(server, "stored_chunks") >= 30
        loaded = counter(server, "loaded_chunks")
        got = answer(server, PROMPTS["short0"])
        assert got == reference["short0"][1], "what was written before is still read"
        assert counter(server, "loaded_chunks") == loaded + 3


def test_a_store_that_cannot_be_used_is_one_clear_error_at_start(
    warm: WarmVllm, tiny_model: Path, tmp_path: Path
) -> None:
    server = server_with_tier(warm, tiny_model, tmp_path, tmp_path / "not" / "mounted")
    with server, pytest.raises(RuntimeError, match="ended while starting"):
        server.wait_until_healthy()
    log = server.log_path.read_text(errors="replace")
    assert re.search(r"StoreError: store e2e at \S+/not/mounted: .*No such file", log)
