"""What decides the bytes of a small model's chunks."""

from __future__ import annotations

from kvatlas.offload.layout.fingerprint import GroupFields, SpaceFields


def fields_of(model: str = "some/model", row_bytes: int = 4096) -> SpaceFields:
    return SpaceFields(
        engine_version="0.32.0",
        device="cpu-x86",
        model=model,
        dtype="float32",
        groups=(GroupFields(group_id=0, tokens_per_block=16, layer_names=("layers.0", "layers.1")),),
        tokens_per_hash=16,
        blocks_per_chunk=1,
        row_bytes=row_bytes,
        worker_bytes_per_block=row_bytes,
        world_size=1,
        tp_size=1,
        pp_size=1,
        pcp_size=1,
        dcp_size=1,
        replicated_layout=False,
        canonical_layout=False,
        kv_cache_layout="",
        hash_algorithm="sha256",
        hash_seed="default",
    )
