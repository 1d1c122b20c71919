"""The Kubernetes manifest of the proxy: its settings and its command line are some that kvatlas takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer.main
import yaml

from kvatlas.cluster.cli import app
from kvatlas.cluster.config.loading import load_config

MANIFEST = Path(__file__).parents[3] / "deploy" / "kubernetes" / "proxy.yaml"


def test_the_manifest_runs_a_proxy_with_its_settings(tmp_path: Path) -> None:
    settings, deployment, service = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}

    command: Any = typer.main.get_command(app)
    assert container["command"] == ["kvatlas", "proxy"]
    given = command.commands["proxy"].make_context("proxy", list(container["args"])).params
    (name, told) = next(iter(settings["data"].items()))
    assert str(given["config"]) == f"{mounts['configuration']}/{name}"

    path = tmp_path / name
    path.write_text(told, encoding="utf-8")
    config = load_config(path)
    assert [watch.name for watch in config.discovery.watches] == ["kubernetes"]
    assert config.tokenize.folders == (mounts["models"],)
    assert config.proxy.tokens_file is not None
    assert Path(config.proxy.tokens_file).parent == Path(mounts["tokens"])

    (port,) = container["ports"]
    assert given["port"] == port["containerPort"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    assert volumes == mounts.keys()
