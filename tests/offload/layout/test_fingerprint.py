"""Fingerprints: what decides bytes changes them, and nothing else does."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.offload.layout.fingerprint import GroupFields, SpaceFields
from kvatlas.offload.layout.hashing import hash_scheme
from tests.offload.layout.spaces import fields, offloading_config

GROUP = GroupFields(group_id=0, tokens_per_block=16, layer_names=("layers.0", "layers.1"))
OTHERS: dict[str, Any] = {
    "layout_version": 2,
    "engine": "other",
    "engine_version": "0.29.0",
    "device": "cuda:9.0",
    "model": "some-org/tiny",
    "revision": "2",
    "dtype": "float8_e4m3fn",
    "groups": (GROUP, GROUP),
    "tokens_per_hash": 8,
    "blocks_per_chunk": 8,
    "row_bytes": 10_001,
    "worker_bytes_per_block": 2049,
    "world_size": 4,
    "tp_size": 4,
    "pp_size": 2,
    "pcp_size": 2,
    "dcp_size": 2,
    "replicated_layout": True,
    "canonical_layout": True,
    "kv_cache_layout": "LBNHC",
    "hash_algorithm": "sha256_cbor",
    "hash_seed": "0123456789abcdef",
    "extras": {"lora": "2"},
}


def test_fields_are_written_as_json_whose_hash_is_the_name_and_which_reads_back() -> None:
    made = fields()
    text = made.encode()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()
    assert msgspec.json.decode(text, type=SpaceFields) == made
    assert made.space_name() == f"some-org_tiny_model-{hashlib.sha256(text).hexdigest()[:16]}"
    assert made.fingerprint("r1") == hashlib.sha256(text + b"\nr1").digest()[:16]


def test_the_bytes_of_a_fingerprint_are_those_of_release_one() -> None:
    """Fails when a change makes the files of all stores unfindable: then raise LAYOUT_VERSION, knowingly."""
    assert fields().space_name() == "some-org_tiny_model-a207cb8dd5ef882f"
    assert fields().fingerprint("all").hex() == "ad9c7f9900a97a685aec7cc1a364f8e5"


def test_every_field_is_tried_below() -> None:
    assert set(OTHERS) == set(SpaceFields.__struct_fields__)


@pytest.mark.parametrize("name", OTHERS)
def test_each_field_makes_another_space_and_another_fingerprint(name: str) -> None:
    one, other = fields(), msgspec.structs.replace(fields(), **{name: OTHERS[name]})
    assert one.space_name() != other.space_name()
    assert one.fingerprint("all") != other.fingerprint("all")


@pytest.mark.parametrize(
    "group",
    [
        msgspec.structs.replace(GROUP, group_id=1),
        msgspec.structs.replace(GROUP, tokens_per_block=32),
        msgspec.structs.replace(GROUP, layer_names=("layers.1", "layers.0")),
    ],
)
def test_each_field_of_a_group_makes_another_space(group: GroupFields) -> None:
    assert msgspec.structs.replace(fields(), groups=(group,)).space_name() != fields().space_name()


def test_each_part_has_a_fingerprint_of_its_own() -> None:
    assert len({fields().fingerprint(part) for part in ("all", "r0", "r1", "r10")}) == 4


@pytest.mark.parametrize("part", ["", "r", "r00", "r-1", "r1/..", "ALL", "r1234567", "all\n"])
def test_other_parts_are_refused(part: str) -> None:
    with pytest.raises(ConfigError, match="part: expected"):
        fields().fingerprint(part)


@pytest.mark.parametrize(
    ("model", "start"),
    [
        ("org/name", "org_name-"),
        ("/models/Llama-3.1 8B", "models_Llama-3.1_8B-"),
        ("../..", "model-"),
        ("ü", "model-"),
        ("x" * 300, "x" * 64 + "-"),
    ],
)
def test_a_space_is_named_for_people_too_and_stays_in_its_store(model: str, start: str) -> None:
    name = fields(offloading_config(model=SimpleNamespace(name=model, dtype="float16"))).space_name()
    assert name.startswith(start) and len(name) == len(start) + 16


def test_groups_are_numbered_as_they_come_where_the_release_does_not_say() -> None:
    groups = [SimpleNamespace(tokens_per_block=size, layer_names=("a",)) for size in (16, 32)]
    assert [group.group_id for group in fields(offloading_config(groups=groups)).groups] == [0, 1]
    groups[0].group_id, groups[1].group_id = 0, 2
    assert [group.group_id for group in fields(offloading_config(groups=groups)).groups] == [0, 2]


def test_the_length_of_keys_follows_from_the_hash() -> None:
    assert fields().key_bytes == 36
    assert fields(hashing=hash_scheme("xxhash", {"PYTHONHASHSEED": "1"})).key_bytes == 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parallel": SimpleNamespace(world_size=1)}, "got one where .*tp_size"),
        ({"worker_kv_bytes_per_block": "2"}, r"worker_bytes_per_block"),
        ({"replicated_layout": None}, r"replicated_layout"),
    ],
)
def test_a_configuration_of_an_unknown_shape_is_refused_with_its_place(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"OffloadingConfig: .*{reason}"):
        fields(offloading_config(**changes))
