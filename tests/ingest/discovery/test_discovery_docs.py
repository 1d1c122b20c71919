"""The page on discovery and the files beside it say what the code does."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from kvatlas.ingest.discovery.config import DiscoveryConfig, DiscoveryLimits, KubernetesWatchConfig
from kvatlas.ingest.discovery.kube.objects import KubePod, as_discovered
from kvatlas.ingest.discovery.pod_file import parse_pods
from tests.test_layout import ROOT

DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "discovery.md").read_text(encoding="utf-8")


def names_counted() -> set[str]:
    """Every name that discovery's code writes into a counter, as text."""
    found = set[str]()
    for path in (ROOT / "ingest" / "discovery").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Subscript) and _is_counter(node.value):
                found |= _texts(node.slice)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                "count",
                "_complain",
                "_end",
            ):
                found |= {text for one in node.args for text in _texts(one) if re.fullmatch(r"[a-z_]+", text)}
    return found


def _is_counter(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in ("counts", "_counts")


def _texts(node: ast.expr) -> set[str]:
    return {
        one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }


def test_the_tables_of_counters_are_complete_and_name_no_others() -> None:
    section = PAGE.partition("\n## Counters")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, flags=re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == names_counted()


def test_the_states_of_the_page_are_those_of_the_code() -> None:
    section = PAGE.partition("\n## What is followed")[2].partition("\n### ")[0]
    sources = [
        (ROOT / "ingest" / "discovery" / name).read_text(encoding="utf-8")
        for name in ("ledger.py", "discovery.py")
    ]
    for state in re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE):
        assert any(f'"{state}"' in source for source in sources), state


def test_defaults_named_on_the_page_are_those_of_the_code() -> None:
    limits = DiscoveryLimits()
    assert (limits.grace_s, limits.flap_admissions, limits.flap_window_s) == (30, 4, 600)
    assert (limits.hold_s_min, limits.hold_s_max, limits.pods_max) == (10, 300, 16_384)
    assert KubernetesWatchConfig().label_selector in PAGE


def test_the_example_configuration_and_the_example_file_are_read() -> None:
    raw = yaml.safe_load((DEPLOY / "discovery" / "discovery.yaml").read_text(encoding="utf-8"))
    config = msgspec.convert(raw, DiscoveryConfig)
    assert [watch.name for watch in config.watches] == ["static", "file", "http", "kubernetes"]
    pods = parse_pods((DEPLOY / "discovery" / "pods.yaml").read_bytes(), "file")
    assert [len(pod.sources) for pod in pods] == [1, 2, 0, 1]
    (block,) = re.findall(r"```yaml\n(discovery:.*?)```", PAGE, flags=re.DOTALL)
    assert len(msgspec.convert(yaml.safe_load(block)["discovery"], DiscoveryConfig).watches) == 4


def manifests(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", ["rbac.yaml", "rbac-all-namespaces.yaml"])
def test_the_role_may_list_and_watch_pods_and_nothing_else(name: str) -> None:
    account, role, binding = manifests(DEPLOY / "kubernetes" / name)
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["roleRef"]["kind"] == role["kind"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]


def test_the_model_server_of_the_manifests_would_be_found() -> None:
    (deployment,) = manifests(DEPLOY / "kubernetes" / "model-server.yaml")
    template = deployment["spec"]["template"]
    name, _, value = KubernetesWatchConfig().label_selector.partition("=")
    assert template["metadata"]["labels"][name] == value
    pod = {
        "metadata": {"name": "x", "namespace": "models", **template["metadata"]},
        "status": {"podIP": "10.0.0.1"},
    }
    found = as_discovered(msgspec.convert(pod, KubePod), KubernetesWatchConfig())
    assert (found.model, found.sources[0].endpoint) == ("some/model", "tcp://10.0.0.1:5557")
    assert found.serving.url == "http://10.0.0.1:8000"
