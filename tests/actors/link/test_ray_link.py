"""Links over Ray calls keep the same promises as those over sockets."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from kvatlas.actors.link.links import Links
from kvatlas.actors.link.ray_link import RayLink
from kvatlas.actors.orders import NAMESPACE, Replica
from kvatlas.index.errors import ConfigError
from tests.actors.link.link_contract import SETTINGS, LinkContract
from tests.actors.link.link_peers import WAIT_S, Echo, ask_until_answered, error_of

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


class EchoActor(Echo):
    """An `Echo` that can be killed, and holds for one test after the other."""

    def hold_again(self) -> None:
        self._may_go = threading.Event()

    def process_id(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module")
def one_for_all(shared_ray: None) -> Iterator[Any]:
    kind: Any = ray.remote(EchoActor)
    made = kind.options(
        name="c/shard/1-0-0", namespace=NAMESPACE, max_concurrency=SETTINGS.in_flight_max + 1, max_restarts=-1
    ).remote()
    yield made
    ray.kill(made, no_restart=True)


@pytest.fixture
def actor(one_for_all: Any) -> Any:
    ray.get(one_for_all.hold_again.remote())
    return one_for_all


@pytest.fixture
def link(actor: Any) -> RayLink:
    return RayLink("echo", lambda: actor, SETTINGS)


class TestRayLink(LinkContract):
    """What every link promises."""

    @pytest.fixture
    def let_go(self, actor: Any) -> Callable[[], None]:
        return lambda: ray.get(actor.let_go.remote())


def test_an_actor_that_was_killed_fails_what_waits_and_answers_when_it_is_back(
    actor: Any, link: RayLink
) -> None:
    assert link.request(b"1", WAIT_S).result(WAIT_S) == b"1"
    held = link.request(b"hold", WAIT_S)
    os.kill(ray.get(actor.process_id.remote()), 9)
    assert "Actor" in error_of(held)
    assert ask_until_answered(link, b"2") == b"2"


def test_links_find_an_actor_by_its_name_and_say_when_there_is_none(actor: Any) -> None:
    links = Links(None)
    replica = Replica(shard=0, replica=0, incarnation=1, node_id="", endpoint="", actor="c/shard/1-0-0")
    assert ask_until_answered(links.open(replica), b"x") == b"x"
    nobody = Replica(shard=0, replica=0, incarnation=1, node_id="", endpoint="", actor="c/shard/none")
    assert "ValueError" in error_of(links.open(nobody).request(b"x", WAIT_S))
    with pytest.raises(ConfigError, match="links: expected keys"):
        links.open(Replica(shard=0, replica=0, incarnation=1, node_id="", endpoint="tcp://127.0.0.1:1"))
    links.close()
