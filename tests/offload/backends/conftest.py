"""One object server for all tests of a process that need one; each test begins with an empty bucket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.offload.backends.object_server import BUCKET, ObjectServer, object_server
from tests.offload.backends.objects_at_hand import Rig


@pytest.fixture(scope="session")
def server_of_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with object_server(tmp_path_factory.mktemp("objects")) as one:
        yield one


@pytest.fixture
def server(server_of_process: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    server_of_process.request("POST", "/moto-api/reset")
    server_of_process.request("PUT", f"/{BUCKET}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret of somebody")
    return server_of_process


@pytest.fixture
def rig(server: ObjectServer) -> Iterator[Rig]:
    one = Rig(server)
    yield one
    one.close()
