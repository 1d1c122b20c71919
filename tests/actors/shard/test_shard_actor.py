"""Shards as Ray actors: they enlist with a directory, are killed, come back as others, and go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import ray

from kvatlas.actors.link.client import SocketLinks
from kvatlas.actors.link.link import ShardLink
from kvatlas.actors.link.messages import Address, Kind, content, decode_message, hello
from kvatlas.actors.link.ray_link import RayLink
from kvatlas.actors.orders import NAMESPACE, LinkKeys, ShardAsks, ShardOrders, ShardReport, decode, encode
from kvatlas.actors.shard.actor import ShardActor
from kvatlas.actors.shard.settings import ShardSettings
from kvatlas.index._native import TableReader
from tests.actors.link.link_peers import WAIT_S, ask_until_answered, new_keys, wait_until
from tests.actors.shard.shard_rig import adds, array
from tests.models.table import delta

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]
NAME = "c/shard/1-2-0"


class Registry:
    """A directory of shards only: numbers them, and notes what they report."""

    def __init__(self, keys: LinkKeys) -> None:
        self._keys = keys
        self._incarnation = 0
        self._goes = False
        self._reports: list[bytes] = []

    def enlist_shard(self, told: bytes) -> bytes:
        decode(told, ShardAsks)
        self._incarnation += 1
        return encode(ShardOrders(incarnation=self._incarnation, sessions=(5,), keys=self._keys))

    def report_shard(self, told: bytes) -> bytes:
        report = decode(told, ShardReport)
        self._reports = [told]
        return encode(
            ShardOrders(
                incarnation=report.replica.incarnation, sessions=(5,), goes=self._goes, keys=self._keys
            )
        )

    def newest(self) -> list[bytes]:
        return self._reports

    def dismiss(self) -> None:
        self._goes = True


@pytest.fixture
def keys() -> LinkKeys:
    return new_keys()


@pytest.fixture
def registry(keys: LinkKeys) -> Iterator[Any]:
    kind: Any = ray.remote(Registry)
    made = kind.options(name="c/directory", namespace=NAMESPACE, num_cpus=0).remote(keys)
    yield made
    ray.kill(made)


def start(folder: Path, **changes: Any) -> Any:
    settings = msgspec.structs.replace(
        ShardSettings(table_bytes_max=4 << 20, shared_memory_folder=str(folder), heartbeat_s=0.05), **changes
    )
    options = {"name": NAME, "namespace": NAMESPACE, "max_restarts": -1, "max_concurrency": 4, "num_cpus": 0}
    return ShardActor.options(**options).remote("c", 1, 2, 0, encode(settings))


def reported(registry: Any, least: int) -> ShardReport:
    """What a process of this incarnation, or of a later one, says."""
    found: list[ShardReport] = []

    def has_come() -> bool:
        found[:] = [decode(told, ShardReport) for told in ray.get(registry.newest.remote())]
        return bool(found) and found[0].replica.incarnation >= least

    wait_until(has_come, 60)
    return found[0]


def load(link: ShardLink, report: ShardReport, *keys: int) -> Kind:
    to = Address(report.layout, report.replica.shard, report.replica.incarnation)
    return decode_message(ask_until_answered(link, content(to, 5, 1, [1], delta([adds(1, *keys)])))).kind


def is_gone(name: str) -> bool:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return True
    return False


def test_a_shard_that_was_killed_comes_back_empty_under_another_number(
    registry: Any, keys: LinkKeys, tmp_path: Path
) -> None:
    actor, links = start(tmp_path), SocketLinks(keys)
    first = reported(registry, 1)
    link = links.open(first.replica.endpoint)
    assert load(link, first, 10, 11) is Kind.APPLIED
    assert TableReader(first.replica.path).lookup(array([10])) == [[(1, 1)]]
    wait_until(lambda: reported(registry, 1).replica.whole)
    os.kill(int(ray.get(actor.process_id.remote())), 9)
    second = reported(registry, 2)
    assert second.replica.path != first.replica.path and not second.replica.whole
    link = links.open(second.replica.endpoint)
    assert load(link, first, 10) is Kind.FENCED, "what is meant for the other process"
    assert load(link, second, 12) is Kind.APPLIED
    assert TableReader(second.replica.path).lookup(array([10, 12])) == [[], [(1, 1)]]
    assert not Path(first.replica.path).exists(), "what the killed one left"
    ray.get(registry.dismiss.remote())
    wait_until(lambda: is_gone(NAME), 60)
    assert not list(tmp_path.iterdir())
    links.close()


def test_over_ray_calls_it_needs_no_socket(registry: Any, tmp_path: Path) -> None:
    actor = start(tmp_path, transport="ray")
    report = reported(registry, 1)
    assert (report.replica.endpoint, report.replica.actor) == ("", NAME)
    assert load(RayLink(NAME, lambda: actor), report, 10) is Kind.APPLIED
    assert decode(ray.get(actor.report.remote()), ShardReport).loaded == (5,)
    ray.kill(actor)


def test_of_an_owned_cluster_it_goes_after_the_directory(registry: Any, tmp_path: Path) -> None:
    _actor = start(tmp_path, owned=True, directory_gone_s_max=0.3)  # it lives as long as its handle
    reported(registry, 1)
    ray.kill(registry)
    wait_until(lambda: is_gone(NAME), 60)
    assert not list(tmp_path.iterdir())


def test_before_it_is_enlisted_it_says_so(tmp_path: Path) -> None:
    actor = start(tmp_path)
    link = RayLink(NAME, lambda: actor)
    answer = decode_message(link.request(hello(Address(1, 2, 1), 5), 60).result(WAIT_S * 3))
    assert answer.text.startswith("busy: ")
    assert ray.get(actor.report.remote()) == b""
    ray.kill(actor)
