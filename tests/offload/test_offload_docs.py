"""docs/offload.md and the manifests: options, metrics and commands that they name are those there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from kvatlas.cluster.commands.offload_commands import offload
from kvatlas.cluster.config.document import OFFLOAD
from kvatlas.cluster.config.parsing import parse
from kvatlas.cluster.config.writing import default_of
from kvatlas.offload.evicting.metrics import EvictCollector
from kvatlas.offload.evicting.service import EvictService
from kvatlas.offload.evicting.settings import EvictSettings
from kvatlas.offload.storing.figures import StorageStatistics
from kvatlas.offload.storing.metrics import COUNTERS, GAUGES, counter_series
from kvatlas.offload.storing.settings import StorageSettings, parse_settings
from kvatlas.offload.window.metrics import METRICS
from kvatlas.offload.window.settings import WindowSettings, window_settings
from tests.offload.storing.files_at_hand import open_process
from tests.test_layout import ROOT

PAGE = (ROOT / "docs" / "offload.md").read_text(encoding="utf-8")
MANIFESTS = ROOT / "deploy" / "kubernetes"


def section(heading: str) -> str:
    text = PAGE.partition(f"# {heading}\n")[2]
    assert text, heading
    return re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]


def rows(heading: str) -> list[list[str]]:
    """Cells of a section's table, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def check_connector(config: dict[str, Any]) -> StorageSettings:
    """Reads the options as vLLM hands them to the tier or the spec; returns those of the store."""
    extra = config["kv_connector_extra_config"]
    assert config["kv_role"] == "kv_both"
    if "kvatlas" in extra:
        named = (extra["spec_name"], extra["spec_module_path"])
        assert named == ("KvatlasOffloadingSpec", "kvatlas.offload.spec")
        assert config["kv_connector_module_path"] == "kvatlas.offload.connector"
        return window_settings(extra)[1]
    (tier,) = extra["secondary_tiers"]
    return check_tier(tier)


def check_tier(tier: dict[str, Any]) -> StorageSettings:
    options = dict(tier)
    assert (options.pop("type"), options.pop("module_path")) == ("KvatlasTier", "kvatlas.offload.tier")
    return parse_settings(options)


def test_configurations_of_the_page_are_read() -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)]
    assert len(blocks) == 3
    stores = [check_connector(one) if "kv_connector" in one else check_tier(one) for one in blocks]
    assert [one.name for one in stores] == ["fleet"] * 3


def test_names_that_vllm_loads_are_defined_where_the_page_says() -> None:
    for module, name in (
        ("tier", "KvatlasTier"),
        ("spec", "KvatlasOffloadingSpec"),
        ("spec", "KvatlasTieringSpec"),
        ("connector", "KvatlasConnector"),
    ):
        assert name in PAGE
        assert f"\nclass {name}(" in (ROOT / "offload" / f"{module}.py").read_text(encoding="utf-8")


def test_defaults_of_the_options_that_matter_are_those_of_the_struct() -> None:
    fields = {field.name: field for field in msgspec.structs.fields(StorageSettings)}
    listed = {name.strip("`"): said for name, said, _ in rows("Options that matter first")}
    assert len(listed) > 8
    for name, said in listed.items():
        field = fields[name]
        shown = "needed" if field.required else json.dumps(default_of(field)).strip('"')
        words = {"name": "the last part of root", "revision": "empty"}
        assert said == words.get(name, {"null": "none"}.get(shown, shown)), name


@pytest.mark.parametrize("struct", [StorageSettings, WindowSettings, EvictSettings])
def test_options_of_offload_are_in_the_generated_configuration(struct: type[msgspec.Struct]) -> None:
    assert struct in {kind for _, kind in OFFLOAD}


def test_metrics_of_the_page_are_those_of_a_store_and_a_window() -> None:
    of_store = {name.strip("`"): (labels, says) for name, labels, says in rows("Of a store")}
    assert of_store == {
        name: (", ".join(f"`{label}`" for label in metric.labels), metric.text)
        for name, metric in {**COUNTERS, **GAUGES}.items()
    }
    of_window = {name.strip("`"): (kind, says) for name, kind, says in rows("Of the window")}
    assert of_window == {
        name: ("counter" if metric.is_counter else "gauge", metric.text) for name, metric in METRICS.items()
    }


def figures_of(root: Path) -> StorageStatistics:
    process = open_process(root)
    try:
        return process.storage.statistics()
    finally:
        process.storage.close()


def test_labels_of_the_page_are_those_that_are_counted(tmp_path: Path) -> None:
    counted: dict[str, list[str]] = {}
    series = counter_series("store")
    assert series.keys() <= figures_of(tmp_path / "store").counters.keys()
    for name, labels in series.values():
        if len(labels) == 2:
            counted.setdefault(name.removeprefix("kvatlas_offload_"), []).append(labels[1])
    text = section("Of a store")
    said = {
        kind: re.findall(r"`(\w+)`", re.search(rf"{words}: ([^.]*)\.", text)[1])  # type: ignore[index]
        for kind, words in (
            ("dropped_chunks", "`reason` of a dropped chunk"),
            ("failures", "Of a failure"),
            ("lookups", "`answer` of a lookup"),
        )
    }
    assert said == counted


def test_metrics_that_a_fault_shows_in_are_there() -> None:
    table = section("What fails, and what happens then")
    known = {*COUNTERS, *GAUGES, *METRICS, "kvatlas_evict_events"}
    named = set(re.findall(r"`(kvatlas_\w+)", table))
    assert len(named) > 10
    assert named <= known


def test_metrics_of_the_evict_service_are_those_of_the_page(tmp_path: Path) -> None:
    figures_of(tmp_path / "store")
    limits = {"capacity_bytes": 1 << 20}
    service = EvictService(
        parse({"stores": [{"root": str(tmp_path / "store"), "limits": limits}]}, EvictSettings, {})
    )
    try:
        made = {family.name for family in EvictCollector(service).collect()}
    finally:
        service.stop()
    assert set(re.findall(r"`(kvatlas_evict_\w+)", section("Of kvatlas evict"))) == made


def test_commands_of_the_page_are_those_there_are() -> None:
    named = set(re.findall(r"^kvatlas offload (\w+)", PAGE, flags=re.MULTILINE))
    assert named == {
        command.name or command.callback.__name__
        for command in offload.registered_commands
        if command.callback
    }


def test_the_file_of_the_evict_service_is_read() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    settings = parse(yaml.safe_load(block), EvictSettings, {})
    assert [store.root for store in settings.stores] == ["/mnt/kv", "/mnt/kv-small"]


def template_of(name: str, kind: str = "Deployment") -> dict[str, Any]:
    documents = yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8"))
    (found,) = (one for one in documents if one["kind"] == kind)
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def connector_of(name: str) -> dict[str, Any]:
    (container,) = template_of(name)["containers"]
    option = "--kv-transfer-config="
    (given,) = (one for one in container["args"] if one.startswith(option))
    config: dict[str, Any] = json.loads(given.removeprefix(option))
    return config


def mounts_of(name: str) -> set[str]:
    (container,) = template_of(name)["containers"]
    return {one["mountPath"] for one in container["volumeMounts"]}


@pytest.mark.parametrize("name", ["offload-shared.yaml", "offload-node-disk.yaml"])
def test_servers_of_the_manifests_have_a_store_on_a_volume_and_room_in_memory(name: str) -> None:
    store = check_connector(connector_of(name))
    assert mounts_of(name) == {"/kv", "/dev/shm"}
    assert store.root.startswith("/kv/")


def test_the_evictor_of_the_manifests_holds_the_store_of_the_servers_to_the_same_limits() -> None:
    store = check_connector(connector_of("offload-shared.yaml"))
    template = template_of("offload-evict.yaml")
    (container,) = template["containers"]
    args = container["args"]
    assert args[:3] == ["kvatlas", "evict", store.root]
    assert (args[args.index("--capacity") + 1], store.capacity_bytes) == ("8TiB", 8 << 40)
    assert (args[args.index("--free-min") + 1], store.free_bytes_min) == ("200GiB", 200 << 30)
    assert not store.evicts
    assert mounts_of("offload-evict.yaml") == {"/kv"}
    assert template["securityContext"] == template_of("offload-shared.yaml")["securityContext"]
