"""Run by a vLLM's own Python: what offloading owes this release of vLLM, checked against its real classes.

    python offload_contract.py ROOT MODEL

Prints one JSON object: check -> "ok", or what went wrong. Nothing of the tests' environment is imported here.
"""

from __future__ import annotations

import inspect
import json
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_offload import base, config
from vllm.v1.kv_offload.base import LookupResult, make_offload_key
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from kvatlas.index.errors import StoreError
from kvatlas.offload.connector import KvatlasConnector
from kvatlas.offload.spec import KvatlasOffloadingSpec, KvatlasTieringSpec
from kvatlas.offload.tier import KvatlasTier
from kvatlas.offload.window.manager import WindowManager
from kvatlas.offload.window.worker import CopyingWorker

N_BLOCKS, PAGE_BYTES, N_LAYERS, BLOCKS_PER_CHUNK = 32, 1024, 2, 2
BLOCK_BYTES = PAGE_BYTES * N_LAYERS
SECONDS_MAX = 60.0

OURS: dict[type, tuple[type, set[str]]] = {
    KvatlasTier: (SecondaryTierManager, set()),
    KvatlasOffloadingSpec: (base.OffloadingSpec, set()),
    KvatlasTieringSpec: (TieringOffloadingSpec, set()),
    KvatlasConnector: (OffloadingConnector, set()),
    WindowManager: (base.OffloadingManager, set()),
    CopyingWorker: (base.OffloadingWorker, {"take_failed_loads"}),
}
"""Class -> what it must fit, and the public methods that are its own."""


# --- signatures ---


def check_no_method_is_left_abstract() -> None:
    for ours in OURS:
        left: frozenset[str] = getattr(ours, "__abstractmethods__", frozenset())
        assert not left, (ours, left)


def check_methods_take_what_vllm_passes() -> None:
    for ours, (theirs, _) in OURS.items():
        for name, method in _methods(ours).items():
            expected = getattr(theirs, name, None)
            if expected is None or name == "__init__":
                continue
            got, asked = _parameters(method), _parameters(expected)
            assert [one.name for one in got][: len(asked)] == [one.name for one in asked], (
                ours,
                name,
                got,
                asked,
            )
            more = [one.name for one in got[len(asked) :] if one.default is one.empty]
            assert not more, (ours, name, more)


def check_no_method_is_one_that_vllm_does_not_call() -> None:
    for ours, (theirs, own) in OURS.items():
        unknown = {name for name in _methods(ours) if not name.startswith("_") and not hasattr(theirs, name)}
        assert unknown == own, (ours, unknown)


def _methods(of: type) -> dict[str, Any]:
    return {name: one for name, one in vars(of).items() if callable(one) or isinstance(one, classmethod)}


def _parameters(method: Any) -> list[inspect.Parameter]:
    plain = method.__func__ if hasattr(method, "__func__") else method
    kinds = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    every = list(inspect.signature(plain).parameters.values())
    return [one for one in every if one.kind not in kinds and one.name not in ("self", "cls")]


def check_the_factory_finds_the_tier_and_its_metrics() -> None:
    tier = _tier_options(Path("/nowhere"))
    found = SecondaryTierFactory.get_tier_class(tier)
    assert found is KvatlasTier, found
    definitions = KvatlasTieringSpec.build_metric_definitions({"secondary_tiers": [tier]})
    assert any(name.startswith("kvatlas") or "kvatlas" in name for name in definitions), sorted(definitions)


# --- cycles through the real managers ---


class Cycle:
    """One engine: its manager and its worker, over a "device" that is memory."""

    def __init__(self, spec_class: type, extra: dict[str, Any]) -> None:
        self.tensors = [torch.zeros((N_BLOCKS, PAGE_BYTES), dtype=torch.int8) for _ in range(N_LAYERS)]
        said = _config(extra)
        # In the order of an engine's start: its workers have their caches before there is a scheduler.
        self.worker = spec_class(said).get_worker(_kv_caches(self.tensors))
        self.manager = spec_class(said).get_manager()
        self.job = 0

    def close(self) -> None:
        self.worker.shutdown()
        self.manager.shutdown()

    def fill(self, blocks: list[int], seed: int) -> None:
        for layer, tensor in enumerate(self.tensors):
            drawn = random.Random(f"{seed}/{layer}").randbytes(len(blocks) * PAGE_BYTES)
            tensor[blocks] = torch.frombuffer(bytearray(drawn), dtype=torch.int8).view(-1, PAGE_BYTES)

    def content(self, blocks: list[int]) -> list[bytes]:
        return [tensor[blocks].numpy().tobytes() for tensor in self.tensors]

    def store(self, name: str, keys: list[Any], blocks: list[int]) -> None:
        context = self._begin(name)
        begun = self.manager.prepare_store(keys, context)
        assert begun is not None and list(begun.keys_to_store) == keys, begun
        self._copy(base.GPULoadStoreSpec(blocks, [len(blocks)], [0]), begun.store_spec, is_load=False)
        self.manager.complete_store(keys, context)
        self.manager.on_request_finished(context)
        self.settle()

    def load(self, name: str, keys: list[Any], blocks: list[int]) -> list[Any]:
        """The answers for the keys up to the first that is none; those before are loaded."""
        context = self._begin(name)
        answers = self._look_up(keys, context)
        hits = keys[: answers.index(LookupResult.MISS)] if LookupResult.MISS in answers else keys
        if hits:
            spec = self.manager.prepare_load(hits, context)
            n_blocks = len(hits) * BLOCKS_PER_CHUNK
            self._copy(base.GPULoadStoreSpec(blocks[:n_blocks], [n_blocks], [0]), spec, is_load=True)
            self.manager.complete_load(hits, context)
        self.manager.on_request_finished(context)
        self.settle()
        return answers

    def settle(self) -> None:
        until_s = time.monotonic() + SECONDS_MAX
        self.step()
        while self.manager.has_pending_work():
            assert time.monotonic() < until_s, "there is always more to do"
            self.step()

    def step(self) -> None:
        self.manager.on_schedule_end(base.ScheduleEndContext(new_req_ids=[], preempted_req_ids=[]))
        for event in self.manager.take_events():
            assert event.keys and isinstance(event.medium, base.Medium), event
        self.manager.get_stats()
        time.sleep(0.001)

    def _begin(self, name: str) -> Any:
        context = base.ReqContext(req_id=name)
        self.manager.on_new_request(context)
        return context

    def _look_up(self, keys: list[Any], context: Any) -> list[Any]:
        until_s = time.monotonic() + SECONDS_MAX
        while True:
            answers = [self.manager.lookup(key, context) for key in keys]
            if LookupResult.MISS in answers:
                answers = answers[: answers.index(LookupResult.MISS) + 1]
            if not {LookupResult.RETRY, LookupResult.HIT_PENDING} & set(answers):
                return answers
            assert time.monotonic() < until_s, answers
            self.step()

    def _copy(self, gpu: Any, other: Any, *, is_load: bool) -> None:
        self.job += 1
        if is_load:
            assert self.worker.submit_load(self.job, other, gpu)
        else:
            assert self.worker.submit_store(self.job, gpu, other)
        self.worker.wait({self.job})
        ended = self.worker.get_finished()
        assert [(one.job_id, one.success) for one in ended] == [(self.job, True)], ended


def _config(extra: dict[str, Any]) -> Any:
    more = {"group_id": 0} if "group_id" in config.OffloadingGroupConfig.__dataclass_fields__ else {}
    return config.OffloadingConfig(
        groups=(config.OffloadingGroupConfig(16, ("layers.0", "layers.1"), **more),),
        worker_kv_bytes_per_block=BLOCK_BYTES,
        enable_kv_cache_events=True,
        extra_config=extra,
        engine_id=f"contract-{random.SystemRandom().getrandbits(64):x}",
        model=config.OffloadingModelConfig("acme/tiny", "int8"),
        cache=config.OffloadingCacheConfig(16, BLOCKS_PER_CHUNK),
        parallel=config.OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, True),
        kv_cache_layout="NHD",
    )


def _kv_caches(tensors: list[torch.Tensor]) -> Any:
    refs = [[base.CanonicalKVCacheRef(at, PAGE_BYTES) for at in range(len(tensors))]]
    return base.CanonicalKVCaches([base.CanonicalKVCacheTensor(one, PAGE_BYTES) for one in tensors], refs)


def _tier_options(root: Path) -> dict[str, Any]:
    return {
        "type": "KvatlasTier",
        "module_path": "kvatlas.offload.tier",
        "root": str(root),
        "name": "contract",
        "free_bytes_min": 0,
    }


def _tiered(root: Path) -> Cycle:
    extra = {"cpu_bytes_to_use": 64 << 12, "secondary_tiers": [_tier_options(root)]}
    return Cycle(KvatlasTieringSpec, extra)


def _windowed(root: Path) -> Cycle:
    storage = {
        name: value for name, value in _tier_options(root).items() if name not in ("type", "module_path")
    }
    return Cycle(KvatlasOffloadingSpec, {"kvatlas": {"window_bytes": 64 << 12, "storage": storage}})


def _check_cycle(make: Any, root: Path) -> None:
    """Store, forget, load; in a second engine; with files torn and deleted: bytes are right, or missed."""
    keys = [make_offload_key(random.Random(number).randbytes(32), 0) for number in range(5)]
    blocks, others = list(range(8)), list(range(16, 24))
    first = make(root)
    try:
        first.fill(blocks, seed=1)
        content = first.content(blocks)
        assert first.load("nothing yet", keys, others) == [LookupResult.MISS]
        first.store("stores", keys[:4], blocks)
        first.manager.reset_cache()
        assert first.load("loads", keys, others) == [LookupResult.HIT] * 4 + [LookupResult.MISS]
        assert first.content(others) == content
    finally:
        first.close()
    files = {path.name.partition("_")[0]: path for path in root.rglob("*.kv")}
    assert len(files) == 4, files
    third, second = (files[keys[at][:-4].hex()] for at in (2, 1))
    changed = bytearray(third.read_bytes())
    changed[5000] ^= 1
    third.write_bytes(changed)
    again = make(root)
    try:
        # What was promised and fails to load is a miss some steps later, and nothing worse.
        answers = again.load("one is torn", keys[:4], others)
        assert answers == [LookupResult.HIT] * 2 + [LookupResult.MISS], answers
        assert again.load("what is left", keys[:2], others) == [LookupResult.HIT] * 2
        assert again.content(others[:4]) == [part[: 4 * PAGE_BYTES] for part in content]
        again.fill(blocks, seed=1)
        again.store("heals it", [keys[2]], blocks[4:6])
        second.unlink()
    finally:
        again.close()
    last = make(root)
    try:
        assert last.load("deleted", keys[:4], others) == [LookupResult.HIT, LookupResult.MISS]
        assert last.load("healed", keys[2:4], others) == [LookupResult.HIT] * 2
        assert last.content(others[:4]) == [part[4 * PAGE_BYTES :] for part in content]
    finally:
        last.close()


def check_tier_stores_and_loads(root: Path) -> None:
    _check_cycle(_tiered, root)


def check_window_stores_and_loads(root: Path) -> None:
    _check_cycle(_windowed, root)


def check_metrics_are_told_at_once_and_gauges_when_nothing_moves_any_more(root: Path) -> None:
    cycle = _tiered(root)
    try:
        (tier,) = cycle.manager.secondary_tiers
        key, context = make_offload_key(random.Random(7).randbytes(32), 0), cycle._begin("asks")
        assert tier.lookup(key, context) is LookupResult.RETRY
        assert _told(tier)["kvatlas_offload_lookups"] == {("contract", "asked"): 1}
        until_s, told = time.monotonic() + SECONDS_MAX, _told(tier)
        while "kvatlas_offload_probes" not in told or tier.has_pending_work():
            assert time.monotonic() < until_s, told
            tier.on_schedule_end(None)
            told.update(_told(tier))
        assert told["kvatlas_offload_probes"] == {("contract",): 1}, told
        assert told["kvatlas_offload_jobs"] == {("contract",): 0}, told
        assert told["kvatlas_offload_known_chunks"] == {("contract",): 0}, told
        assert tier.lookup(key=key, req_context=context) is LookupResult.MISS
        assert _told(tier)["kvatlas_offload_lookups"] == {("contract", "absent"): 1}
    finally:
        cycle.close()


def _told(tier: Any) -> dict[str, Any]:
    stats = tier.get_stats()
    return {} if stats is None else dict(stats.data["data"])


def check_a_root_that_is_missing_is_one_clear_error(root: Path) -> None:
    for make in (_tiered, _windowed):
        error = None
        try:
            make(root / "missing" / "more")
        except StoreError as raised:
            error = raised
        assert error is not None and str(root / "missing") in str(error), repr(error)


def check_the_connector_is_constructed_from_a_real_configuration(root: Path, model: str) -> None:
    transfer = {
        "kv_connector": "KvatlasConnector",
        "kv_connector_module_path": "kvatlas.offload.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "spec_name": "KvatlasTieringSpec",
            "spec_module_path": "kvatlas.offload.spec",
            "cpu_bytes_to_use": 1 << 20,
            "secondary_tiers": [_tier_options(root)],
        },
    }
    said = EngineArgs(model=model, kv_transfer_config=transfer, max_model_len=256).create_engine_config()
    layout = _kv_cache_config(said.cache_config.block_size)
    for role in (KVConnectorRole.SCHEDULER, KVConnectorRole.WORKER):
        connector = KvatlasConnector(said, role, layout)
        try:
            assert connector.get_block_ids_with_load_errors() == set()
        finally:
            connector.shutdown()


def _kv_cache_config(block_tokens: int) -> Any:
    from vllm.v1 import kv_cache_interface as interface

    spec = interface.FullAttentionSpec(
        block_size=block_tokens, num_kv_heads=1, head_size=32, dtype=torch.float32
    )
    layers = ["model.layers.0.self_attn.attn", "model.layers.1.self_attn.attn"]
    page = spec.page_size_bytes
    tensor = interface.KVCacheTensor(
        size=2 * 8 * page, layers=layers, offset=0, layer_stride=8 * page, block_stride=page
    )
    return interface.KVCacheConfig(
        num_blocks=8, kv_cache_tensors=[tensor], kv_cache_groups=[interface.KVCacheGroupSpec(layers, spec)]
    )


def main() -> None:
    import vllm
    from vllm.utils.hashing import sha256

    folder, model = Path(sys.argv[1]), sys.argv[2]
    kv_cache_utils.init_none_hash(sha256)
    results = {"version": vllm.__version__}
    for name, check in list(globals().items()):
        if not name.startswith("check_"):
            continue
        root = folder / name
        root.mkdir()
        given = {"root": root, "model": model}
        asked = inspect.signature(check).parameters
        try:
            check(**{one: given[one] for one in asked})
            results[name] = "ok"
        except Exception:
            results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
