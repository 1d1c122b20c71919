"""Configuration of sources and limits, and where a pod's replay socket is."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import zmq

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.sockets.curve import CurveConfig
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig

PUBLIC, SECRET = (key.decode() for key in zmq.curve_keypair())


def listening(template: str | None, **pods: str) -> SourceConfig:
    return SourceConfig(endpoint="tcp://*:5557", bind=True, replay_endpoint=template, replay_endpoints=pods)


@pytest.mark.parametrize(
    ("pod", "rank", "endpoint"),
    [
        ("10.0.0.9", 0, "tcp://10.0.0.9:5558"),
        ("10.0.0.9:8000", 3, "tcp://10.0.0.9:5561"),
        ("vllm-0.vllm.default.svc", None, "tcp://vllm-0.vllm.default.svc:5558"),
        ("vllm-0:8000", 1, "tcp://vllm-0:5559"),
        ("fd00::17", 0, "tcp://[fd00::17]:5558"),
        ("[fd00::17]:8000", 0, "tcp://[fd00::17]:5558"),
    ],
)
def test_a_template_is_filled_with_host_and_rank(pod: str, rank: int | None, endpoint: str) -> None:
    assert listening("tcp://{host}:{5558+rank}").replay_endpoint_of(pod, rank) == endpoint


def test_pod_and_rank_can_be_part_of_a_name() -> None:
    source = listening("ipc:///run/{pod}-{rank}.replay")
    assert source.replay_endpoint_of("pod-a", 2) == "ipc:///run/pod-a-2.replay"


@pytest.mark.parametrize(
    "pod", ["", "..", "../../etc", "a/b", "evil.example;tcp", "a b", "[zz]:1", "host\n", "x" * 300]
)
def test_a_pod_id_that_names_no_host_reaches_no_endpoint(pod: str) -> None:
    for template in ("tcp://{host}:5558", "ipc:///run/{pod}"):
        with pytest.raises(InputError, match="expected a pod id that names a host"):
            listening(template).replay_endpoint_of(pod, 0)


def test_a_port_raised_beyond_all_ports_is_refused() -> None:
    with pytest.raises(InputError, match="expected 1 to 65535, got 65536"):
        listening("tcp://{host}:{65535+rank}").replay_endpoint_of("h", 1)


def test_a_map_names_the_pods_that_have_a_replay_socket() -> None:
    source = listening(None, a="tcp://10.0.0.1:5558", b="tcp://10.0.0.2:{5558+rank}")
    assert source.has_replay
    assert [source.has_replay_of(pod, 0) for pod in ("a", "b", "c")] == [True, True, False]
    assert source.replay_endpoint_of("b", 1) == "tcp://10.0.0.2:5559"
    with pytest.raises(InputError, match="expected an endpoint for pod 'c', got none"):
        source.replay_endpoint_of("c", 0)
    with_rest = listening("tcp://{host}:1", a="tcp://10.0.0.1:5558")
    assert with_rest.replay_endpoint_of("a", 0) == "tcp://10.0.0.1:5558"
    assert with_rest.replay_endpoint_of("z", 0) == "tcp://z:1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replay_endpoint": "tcp://{host}:5558"}, r"expected no placeholder, got \{host\}"),
        ({"bind": True, "replay_endpoint": "tcp://{name}:5558"}, r"expected \{host\}, .* got \{name\}"),
        ({"replay_endpoints": {"a": "tcp://10.0.0.1:5558"}}, "expected none without bind"),
        ({"pod": ""}, "pod: expected a name or None"),
        ({"rank": -1}, "rank: expected 0 to 65535, got -1"),
        ({"overrides_topic": True}, "overrides_topic: expected a pod, and no bind"),
        ({"overrides_topic": True, "pod": "a", "bind": True}, "overrides_topic: expected a pod, and no bind"),
        ({"curve": CurveConfig()}, "curve.server_key: expected the publisher's key"),
        ({"bind": True, "curve": CurveConfig(secret_key=SECRET)}, "expected secret_key and client_keys"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SourceConfig(endpoint="tcp://10.0.0.9:5557", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: CurveConfig(server_key="short"),
        lambda: CurveConfig(secret_key="ü" * 40),
        lambda: CurveConfig(client_keys=(PUBLIC, "ü")),
    ],
)
def test_a_key_that_is_none_is_refused_without_being_told(make: Callable[[], CurveConfig]) -> None:
    with pytest.raises(ConfigError, match="expected 40 characters of Z85, got") as told:
        make()
    assert "ü" not in str(told.value)


def test_a_public_key_needs_its_secret_one() -> None:
    with pytest.raises(ConfigError, match="secret_key: expected the one of public_key"):
        CurveConfig(public_key=PUBLIC)


def test_a_secret_key_is_not_printed() -> None:
    curve = CurveConfig(public_key=PUBLIC, secret_key=SECRET)
    assert SECRET not in repr(curve)
    assert SECRET not in repr(SourceConfig(endpoint="tcp://h:1", bind=True, curve=with_client(curve)))


def with_client(curve: CurveConfig) -> CurveConfig:
    return msgspec.structs.replace(curve, client_keys=(PUBLIC,))


@pytest.mark.parametrize("name", SubscriberConfig.__struct_fields__)
def test_every_limit_is_checked_with_its_name(name: str) -> None:
    for value in (-1, "many", True):
        with pytest.raises(ConfigError, match=f"^{name}: expected a number of at least"):
            SubscriberConfig(**{name: value})  # type: ignore[arg-type]


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="reconnect_s_min: expected at most reconnect_s_max"):
        SubscriberConfig(reconnect_s_min=5.0)
    assert SubscriberConfig(heartbeat_s=0).heartbeat_s == 0
