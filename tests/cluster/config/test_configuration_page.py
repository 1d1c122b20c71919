"""docs/configuration.md is what the structs say."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest

from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.document import docs_of, document, sections
from kvatlas.index.errors import ConfigError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert document(page) == page, "make docs writes it anew"


def test_every_field_is_in_its_section() -> None:
    page = PAGE.read_text(encoding="utf-8")
    seen = set()
    for path, kind in sections(ClusterConfig, ""):
        if kind in seen:
            continue
        seen.add(kind)
        _, _, section = page.partition(f"\n## {path or 'The root'}\n")
        section = section.partition("\n## ")[0]
        for name in kind.__struct_fields__:
            elsewhere = path == "atlas" and name in (
                "index",
                "shards",
                "table_bytes_max",
                "default_model",
                "default_pod",
            )
            assert (f"| `{name}` |" in section) != elsewhere, f"{path}.{name}"


def test_every_struct_of_the_tree_says_what_it_is_and_what_its_plain_fields_are() -> None:
    for _, kind in sections(ClusterConfig, ""):
        assert kind.__doc__
        docs, hints = docs_of(kind), typing.get_type_hints(kind)
        for field in msgspec.structs.fields(kind):
            assert (
                field.name in docs or "Config" in str(hints[field.name]) or "Limits" in str(hints[field.name])
            ), f"{kind.__name__}.{field.name}"


def test_a_page_without_its_mark_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a line <!-- What follows"):
        document("# Configuration\n")
