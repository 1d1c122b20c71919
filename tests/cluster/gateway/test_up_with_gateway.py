"""`kvatlas up --gateway`: what it makes of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from kvatlas.cluster.cli import app


def up(*arguments: str) -> str:
    result = CliRunner().invoke(app, ("up", "--check", *arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_it_means_one_replica_where_the_configuration_has_none(tmp_path: Path) -> None:
    assert "gateway" not in up()
    assert up("--gateway") == "gateway:\n  replicas: 1\n"
    file = tmp_path / "cluster.yaml"
    file.write_text("gateway: {replicas: 3}\n", encoding="utf-8")
    assert up("--gateway", "-c", str(file)) == up("-c", str(file)) == "gateway:\n  replicas: 3\n"
