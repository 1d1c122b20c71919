"""The gateway as it is run: on a real Ray Serve, through its proxy, in front of a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve

from kvatlas.cluster import launch
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.actors_config import ShardsConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.gateway_config import GatewayConfig, GatewayLimits, GrpcConfig
from kvatlas.cluster.gateway.deploying import application_name
from tests.cluster.gateway.rig import Asker
from tests.cluster.gateway.rpc_rig import Stub
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of
from tests.ports import free_ports

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Serve's own
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

BODY_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _serve(shared_ray: None) -> Iterator[None]:
    yield
    serve.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(2) as fleet:
        fleet.serve(20)
        yield fleet


@pytest.fixture(scope="module")
def config(fleet: Fleet) -> ClusterConfig:
    port, grpc_port = free_ports(2)
    return ClusterConfig(
        name="gated",
        discovery=fleet.discovery,
        shards=ShardsConfig(count=2, table_bytes_max=64 << 20),
        gateway=GatewayConfig(
            replicas=2,
            port=port,
            route_prefix="/kv",
            grpc=GrpcConfig(listen=(f"127.0.0.1:{grpc_port}",)),
            limits=GatewayLimits(body_bytes_max=BODY_BYTES_MAX, body_s_max=1.0),
        ),
    )


@pytest.fixture(scope="module")
def client(config: ClusterConfig, fleet: Fleet) -> Iterator[Client]:
    with launch.start(config) as client:
        fleet.wait_agreed(client)
        yield client
    launch.down(config.name)
    assert application_name(config.name) not in serve.status().applications


@pytest.fixture
def asker(client: Client, config: ClusterConfig) -> Asker:
    return Asker(config.gateway.port)


def test_scores_through_serve_are_those_of_a_client(asker: Asker, client: Client, fleet: Fleet) -> None:
    for prompt in fleet.sample(5):
        answer = asker.post("/kv/v1/score", {"model": MODEL, "token_ids": prompt})
        assert answer.status == 200
        assert answer.body["scores"] == dict(client.score(prompt, model=MODEL))


def test_feedback_and_receipts_find_the_replica_that_chose(asker: Asker, fleet: Fleet) -> None:
    for number in range(12):  # each call may come to either of two
        request_id = f"request {number}"
        question = {"model": MODEL, "token_ids": fleet.prompts[number], "request_id": request_id}
        choice = asker.post("/kv/v1/choose", question)
        assert choice.status == 200 and choice.body["pod"] in {"pod0", "pod1"}
        name = f"request%20{number}"
        told = asker.post(f"/kv/v1/requests/{name}/completed", {"cached_tokens": 16})
        assert (told.status, told.body) == (200, {"request_id": request_id})
        receipt = asker.get(f"/kv/v1/receipts/{name}")
        assert (receipt.status, receipt.body["actual_cached_tokens"]) == (200, 16)
    assert asker.post("/kv/v1/requests/nobody/completed").status == 404


def test_grpc_answers_at_its_own_port(asker: Asker, fleet: Fleet, client: Client) -> None:
    ready = asker.get("/kv/readyz")
    assert ready.status == 200 and ready.body["is_ready"]
    (address,) = ready.body["grpc"]
    prompt = fleet.prompts[0]
    answer = Stub(address, "gateway.proto").call("Score", prompt={"model": MODEL, "token_ids": prompt})
    assert dict(answer.scores) == dict(client.score(prompt, model=MODEL))


def test_large_and_slow_bodies_are_refused_through_the_proxy_too(asker: Asker) -> None:
    head = b"POST /kv/v1/score HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    chunk = b"%x\r\n%b\r\n" % (BODY_BYTES_MAX, b" " * BODY_BYTES_MAX)
    large = asker.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2 + b"0\r\n\r\n")
    assert b" 413 " in large.split(b"\r\n")[0]
    slow = asker.raw(head + b"Content-Length: 100\r\n\r\n{")
    assert b" 408 " in slow.split(b"\r\n")[0]


def test_bringing_it_up_again_changes_nothing_that_runs(config: ClusterConfig, client: Client) -> None:
    def replicas() -> set[str]:
        actors: Any = ray.util.list_named_actors(all_namespaces=True)
        return {actor["name"] for actor in actors if "SERVE_REPLICA" in actor["name"]}

    before = replicas()
    launch.start(config).close()
    assert replicas() == before and len(before) == 2
