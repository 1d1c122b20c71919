"""What Prometheus is told, scraped as it would scrape."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kvatlas import Atlas
from kvatlas.ingest.metrics import AtlasCollector
from tests.ingest.plain_batches import batch, stored

TOKENS = list(range(64))


def scraped(atlas: Atlas) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(AtlasCollector(atlas))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def test_workers_are_told_by_state_with_blocks_batches_and_skips() -> None:
    atlas = Atlas()
    atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2], TOKENS[:32])))
    atlas.ingest(b"kv@b@m", 7, batch(stored([1], TOKENS[:16]), {"type": "Later"}))
    samples = scraped(atlas)

    def value(name: str, **labels: str) -> float:
        return samples[name, frozenset(labels.items())]

    assert value("kvatlas_workers", model="m", state="EXACT") == 1
    assert value("kvatlas_workers", model="m", state="DEGRADED") == 1
    assert value("kvatlas_workers", model="m", state="BLIND") == 0
    assert value("kvatlas_worker_blocks", model="m", pod="a", rank="0", tier="gpu") == 2
    assert value("kvatlas_batches_total", model="m", pod="b", rank="0") == 1
    assert value("kvatlas_skips_total", reason="unknown_events") == 1
    assert value("kvatlas_events_total", kind="blocks_stored") == 3
    assert value("kvatlas_blocks") == 2
    assert value("kvatlas_truth_transitions_total", change="BLIND->EXACT") == 1
    assert value("kvatlas_mirror_bytes", model="m", pod="a", rank="0") > 0
    atlas.close()


def test_an_atlas_without_workers_can_be_scraped() -> None:
    atlas = Atlas()
    assert scraped(atlas)["kvatlas_blocks", frozenset()] == 0
    atlas.close()
