"""Two clusters that follow the same servers: the second answers the same, and takes over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvatlas.cluster import launch
from kvatlas.cluster.standby.standby_client import StandbyClient
from kvatlas.index.errors import InputError
from tests.cluster.living_fleet import MODEL, Fleet, wait_until
from tests.cluster.standby.small_cluster import small_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]
FIRST, SECOND = "main-atlas", "standby-atlas"


@pytest.fixture
def client(fleet: Fleet) -> Iterator[StandbyClient]:
    for name in (FIRST, SECOND):
        launch.start(small_cluster(name, fleet.discovery)).close()
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
    wait_until(lambda: client.asked == SECOND, 60, lambda: client.asked)
    fleet.serve(10)
    fleet.wait_agreed(client)
    client.choose(fleet.prompts[0], model=MODEL, request_id="after")
    assert client.completed("before"), "a request ends where it was chosen"
    assert client.completed("after")

    launch.start(small_cluster(FIRST, fleet.discovery)).close()
    wait_until(lambda: client.asked == FIRST, 60, lambda: client.asked)
    assert client.switches == 2
    fleet.wait_agreed(client)


def test_a_cluster_is_no_standby_of_itself() -> None:
    with pytest.raises(InputError, match="another cluster"):
        launch.connect(FIRST, standby=FIRST)
