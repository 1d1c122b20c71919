"""The service: several stores, failures that end, health and metrics over HTTP."""

from __future__ import annotations

import json
import logging
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvatlas.index.errors import ConfigError
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.capacity.notices import RemovalNotices
from kvatlas.offload.evicting.metrics import MetricsServer
from kvatlas.offload.evicting.service import EvictService
from kvatlas.offload.evicting.settings import EvictSettings, StoreToEvict
from tests.offload.capacity.stores_at_hand import files_of, key_of, make_store, put, wait_until

KB = 1024


def store(root: Path, n_files: int, model: str = "some/model") -> StoreToEvict:
    space = make_store(root, model)
    for number in range(n_files):
        put(space.part_folder, key_of(number), 4 * KB, age_s=10_000.0 - number)
    limits = CapacityLimits(capacity_bytes=200 * KB, low_share=0.5, period_s=0.01)
    return StoreToEvict(root=str(root), limits=limits, threads=2)


def fetched(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_each_store_is_held_to_its_limits_and_both_are_seen(tmp_path: Path) -> None:
    stores = (store(tmp_path / "a", 100), store(tmp_path / "b", 10))
    service = EvictService(EvictSettings(stores=stores, port=0))
    server = MetricsServer(service, "127.0.0.1", 0)
    server.start()
    service.start()
    try:
        wait_until(lambda: len(files_of(tmp_path / "a")) == 25, "the first is evicted")
        space = next((tmp_path / "a").glob("*-*")).name
        told: list[bytes] = []

        def all_told() -> bool:
            told.extend(RemovalNotices(tmp_path / "a").take(space))
            return len(told) >= 75

        wait_until(all_told, "notices are left")
        assert sorted(told) == sorted(key_of(number) for number in range(75))
        wait_until(lambda: all(one.evictor.files for one in service.states()), "both are counted")
        wait_until(lambda: service.states()[0].evictor.used_bytes == 100 * KB, "the ledger knows it too")
        status, body = fetched(server.port, "/healthz")
        assert status == 200 and json.loads(body)["is_healthy"]
        status, text = fetched(server.port, "/metrics")
        found = {
            (sample.name, sample.labels["store"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "kind" not in sample.labels
        }
        assert found["kvatlas_evict_used_bytes", str(tmp_path / "a")] == 100 * KB
        assert found["kvatlas_evict_evicted_bytes_total", str(tmp_path / "a")] == 300 * KB
        assert found["kvatlas_evict_files", str(tmp_path / "b")] == 10
        assert found["kvatlas_evict_healthy", str(tmp_path / "b")] == 1
        assert fetched(server.port, "/elsewhere")[0] == 404
    finally:
        server.stop()
        assert service.stop()
    assert not (tmp_path / "a" / "control" / "evictor.lease").exists()


def test_a_store_that_fails_is_unhealthy_comes_back_and_leaves_the_other_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stores = (store(tmp_path / "a", 10), store(tmp_path / "b", 10))
    service = EvictService(EvictSettings(stores=stores, retry_s_max=0.01))
    (tmp_path / "a").rename(tmp_path / "away")
    service.start()
    try:
        wait_until(lambda: service.states()[0].parts[0].failures > 2, "it is tried again")
        assert not service.is_healthy
        assert "expected the folder of a store" in service.states()[0].parts[0].why
        wait_until(lambda: service.states()[1].evictor.is_evicting, "the other works")
        assert service.states()[1].parts[0].is_healthy
        (tmp_path / "away").rename(tmp_path / "a")
        wait_until(lambda: service.is_healthy, "it works again")
    finally:
        service.stop()
    said = [record.getMessage() for record in caplog.records]
    assert "failed" in said and "works again" in said


def test_a_part_that_does_not_get_on_is_unhealthy(tmp_path: Path) -> None:
    service = EvictService(EvictSettings(stores=(store(tmp_path / "a", 1),), hung_s=0.05))
    evicted = service._stores[0]
    stuck = threading.Event()

    def hang() -> None:
        stuck.wait(60)

    evicted.evictor.control.check = hang  # type: ignore[method-assign]
    service.start()
    try:
        wait_until(lambda: "hangs since" in service.states()[0].parts[0].why, "it is seen")
    finally:
        stuck.set()
        service.stop()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"root": "", "limits": CapacityLimits(capacity_bytes=1 << 20)}, "root: expected the folder"),
        ({"root": "/a", "limits": CapacityLimits()}, "expected capacity_bytes, free_bytes_min, or both"),
        ({"root": "/a", "limits": CapacityLimits(capacity_bytes=1 << 20), "threads": 0}, "threads: expected"),
    ],
)
def test_settings_that_do_not_fit_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        StoreToEvict(**given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one"):
        EvictSettings(stores=())


def test_an_address_that_is_taken_is_one_clear_error(tmp_path: Path) -> None:
    service = EvictService(EvictSettings(stores=(store(tmp_path / "a", 1),)))
    first = MetricsServer(service, "127.0.0.1", 0)
    first.start()
    with pytest.raises(ConfigError, match="expected to listen at"):
        MetricsServer(service, "127.0.0.1", first.port)
    first.stop()
