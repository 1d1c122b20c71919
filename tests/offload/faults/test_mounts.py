"""A real file system that fills up, turns read-only and recovers: loads go on, stores wait."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the scenario has met. Skips where nobody may mount, not even in a namespace of its own."""
    unshare = shutil.which("unshare")
    folder = tmp_path_factory.mktemp("mounted")
    inside = [unshare or "", "--map-root-user", "--mount"]
    if (
        unshare is None
        or subprocess.run(
            [*inside, "mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no mount namespace for this user")
    done = subprocess.run(
        [*inside, sys.executable, "-m", "tests.offload.faults.mounted", str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.slow
def test_a_full_disk_stops_stores_alone_and_is_counted(told: dict[str, Any]) -> None:
    full = told["full"]
    assert full["stored"] >= 8 and full["no_space"] > 0
    assert full["is_served"] and not full["takes_writes"]
    assert full["temporary"] == 0


@pytest.mark.slow
def test_stores_go_on_when_there_is_room_again(told: dict[str, Any]) -> None:
    assert told["full"]["recovers"]


def test_a_read_only_remount_stops_stores_alone_and_is_counted(told: dict[str, Any]) -> None:
    assert told["read_only"]["refused"] == 1 and told["read_only"]["read_only"] > 0
    assert told["read_only"]["is_served"]


def test_stores_go_on_when_it_may_be_written_to_again(told: dict[str, Any]) -> None:
    assert told["read_only"]["recovers"]
