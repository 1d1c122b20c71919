"""A shard's process killed while changes come, again and again: the next one gets everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import ClusterView, Layout, LinkKeys
from kvatlas.actors.subscriber.outbox import Outbox
from kvatlas.actors.subscriber.settings import OutboxSettings
from kvatlas.index._native import TableReader
from tests.actors.link.link_peers import new_keys, wait_until
from tests.actors.subscriber.fleet_of_servers import FleetOfServers
from tests.actors.subscriber.shard_process import ShardProcess
from tests.actors.subscriber.shards_by_mail import held


@pytest.fixture
def keys() -> LinkKeys:
    return new_keys()


@pytest.fixture
def outbox(keys: LinkKeys) -> Iterator[tuple[Outbox, FleetOfServers]]:
    fleet = FleetOfServers(gathered_bytes_max=1 << 24)
    links = Links(keys)
    outbox = Outbox(fleet.mirror, 7, links.open, OutboxSettings(request_s_max=1.0)).start()
    yield outbox, fleet
    outbox.stop()
    links.close()
    assert outbox.failure is None


@pytest.mark.slow
def test_shard_killed_under_load_is_whole_again_in_its_next_process(
    keys: LinkKeys, outbox: tuple[Outbox, FleetOfServers], tmp_path: Path
) -> None:
    sender, fleet = outbox
    with ExitStack() as closing:
        for incarnation in range(1, 4):
            process = ShardProcess(keys, tmp_path, incarnation)
            closing.callback(process.kill)
            layout = Layout(number=1, n_shards=1, replicas=(process.replica,))
            sender.follow(ClusterView(version=incarnation, cluster="c", serving=layout))
            for number in range(20):
                fleet.serve(number % 3, [incarnation, number, *range(40)], 3)
            wait_until(lambda at=incarnation: sender.loaded == (at,))  # type: ignore[misc]
            fleet.serve(0, [incarnation, 99, *range(200)], 3)
            mark = sender.mark()
            wait_until(lambda at=mark: sender.has_delivered(at))  # type: ignore[misc]
            reader = TableReader(process.replica.path)
            assert held(reader, sorted(fleet.keys_seen)) == fleet.expected() != {}
            fleet.serve(0, [incarnation, 100, *range(900)], 3)  # on its way when it dies
            process.kill()
