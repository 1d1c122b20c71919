"""The atlas beside a real model server that offloads blocks to CPU memory and to files.

Such copies are announced in any order, without what makes a block another one (a cache salt), or
without any tokens at all: the atlas knows them only by the server's hash of the block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvatlas.index.scores import DEFAULT_TIER_WEIGHTS
from tests.e2e.conversations import fresh_prompt
from tests.e2e.observed_server import ObservedServer, Observer
from tests.e2e.vllm_server import BLOCK_SIZE_TOKENS, MODEL_NAME, VllmServer

pytestmark = pytest.mark.timeout(420)  # the first test of each server waits for it to start

_CPU_BYTES = 40 * 16 * 1024
"""40 blocks: 2 layers, keys and values, 32 tokens, 32 floats."""


@pytest.fixture(scope="module", params=["self_describing", "placeholders"])
def offloading(
    request: pytest.FixtureRequest,
    shared: Path,
    vllm_python: str,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ObservedServer]:
    """A server of 64 blocks on the GPU, 40 in CPU memory, and files.

    Offloading wants a GPU; the stand-in for it is one of the shared files.
    """
    lab = shared / "lab"
    if not (lab / "cpu_tiering_spec.py").is_file():
        pytest.skip("the shared folder has no lab/cpu_tiering_spec.py")
    connector = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": "CpuTieringSpec",
            "spec_module_path": "cpu_tiering_spec",
            "cpu_bytes_to_use": _CPU_BYTES,
            "self_describing_kv_events": request.param == "self_describing",
            "secondary_tiers": [{"type": "fs", "root_dir": "kvfiles", "enable_kv_events": True}],
        },
    }
    server = VllmServer(
        vllm_python,
        tiny_model,
        tmp_path_factory.mktemp(request.param),
        pod="offloading",
        flags=("--kv-transfer-config", json.dumps(connector)),
        environment={"PYTHONPATH": str(lab)},
    )
    with server, Observer(server) as observer, ObservedServer(server, observer) as observed:
        server.wait_until_healthy()
        yield observed


def test_every_copy_of_a_block_is_found_and_followed(offloading: ObservedServer) -> None:
    plain, salted = fresh_prompt(1, 100), fresh_prompt(2, 100)
    offloading.complete(plain)
    offloading.complete(salted, cache_salt="tenant")
    _await_files(offloading, blocks=6)
    assert offloading.tiers(plain) == [{"gpu", "cpu", "storage"}] * 3
    assert offloading.tiers(salted, cache_salt="tenant") == [{"gpu", "cpu", "storage"}] * 3
    assert offloading.tiers(salted) == []

    # First the CPU's 40 blocks overflow, then the GPU's 63.
    for seed in range(10, 15):
        offloading.complete(fresh_prompt(seed, 18 * BLOCK_SIZE_TOKENS + 5))
        _await_files(offloading, blocks=6 + 18 * (seed - 9))
        for tier, medium in (("gpu", "GPU"), ("cpu", "CPU"), ("storage", "STORAGE")):
            assert offloading.held_blocks(tier) == len(offloading.log.held(medium)), (seed, tier)
    assert offloading.tiers(plain) == [{"storage"}] * 3
    assert offloading.tiers(salted, cache_salt="tenant") == [{"storage"}] * 3
    scores = offloading.atlas.score(plain, model=MODEL_NAME)
    assert scores["offloading"] == pytest.approx(3 * DEFAULT_TIER_WEIGHTS["storage"])

    turn = offloading.complete(plain)
    assert turn.predicted_tokens == turn.answer.cached_tokens == 96, "the server has read its files"
    assert offloading.tiers(plain) == [{"gpu", "cpu", "storage"}] * 3
    assert offloading.skips()["unresolved"] == 0


def test_a_reset_leaves_the_files(offloading: ObservedServer) -> None:
    """Of the CPU copies a reset says nothing, so they do not count until they are announced again."""
    prompt = fresh_prompt(30, 100)
    offloading.complete(prompt)
    offloading.settle_until(lambda log: log.leading_blocks(prompt, BLOCK_SIZE_TOKENS, medium="STORAGE") == 3)
    offloading.reset()
    assert offloading.tiers(prompt) == [{"storage"}] * 3
    assert offloading.held_blocks("gpu") == 0
    turn = offloading.complete(prompt)
    assert turn.predicted_tokens == turn.answer.cached_tokens == 96
    assert all("gpu" in tiers for tiers in offloading.tiers(prompt))
    assert len(offloading.tiers(prompt)) == 3


def _await_files(offloading: ObservedServer, *, blocks: int) -> None:
    """Copies to files go on after the answer."""
    offloading.settle_until(lambda log: len(log.held("STORAGE")) == blocks)
