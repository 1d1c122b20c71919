"""Two clusters that follow the same servers: the second answers the same, and takes over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvatlas.cluster import launch
from kvatlas.cluster.config.actors_config import ReadingConfig, ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.standby.standby_client import StandbyClient
from kvatlas.index.errors import InputError
from kvatlas.ingest.config import AtlasConfig
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]
FIRST, SECOND = "main-atlas", "standby-atlas"


def config(name: str, fleet: Fleet) -> ClusterConfig:
    return ClusterConfig(
        name=name,
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=32 << 20),
        reading=ReadingConfig(view_s_max=4.0),
        atlas=AtlasConfig(hash_seed="both"),
    )


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(2) as fleet:
        fleet.serve(30)
        yield fleet


@pytest.fixture
def client(fleet: Fleet) -> Iterator[StandbyClient]:
    for name in (FIRST, SECOND):
        launch.start(config(name, fleet)).close()
    client = launch.connect(FIRST, standby=SECOND)
    assert isinstance(client, StandbyClient)
    yield client
    client.close()
    for name in (FIRST, SECOND):
        launch.down(name)


def test_a_client_asks_the_standby_when_its_cluster_is_gone_and_comes_back(
    client: StandbyClient, fleet: Fleet
) -> None:
    fleet.wait_agreed(client)
    fleet.wait_agreed(client.standby)
    assert client.asked == FIRST
    client.choose(fleet.prompts[0], model=MODEL, request_id="before")

    launch.down(FIRST)
    wait_until(lambda: client.asked == SECOND, 30, lambda: client.asked)
    fleet.serve(10)
    fleet.wait_agreed(client)
    client.choose(fleet.prompts[0], model=MODEL, request_id="after")
    assert client.completed("before"), "a request ends where it was chosen"
    assert client.completed("after")

    launch.start(config(FIRST, fleet)).close()
    wait_until(lambda: client.asked == FIRST, 60, lambda: client.asked)
    assert client.switches == 2
    fleet.wait_agreed(client)


def test_a_cluster_is_no_standby_of_itself() -> None:
    with pytest.raises(InputError, match="another cluster"):
        launch.connect(FIRST, standby=FIRST)
