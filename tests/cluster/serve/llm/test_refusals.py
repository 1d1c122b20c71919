"""What a process is refused for: its environment, its Ray, its options."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from ray.llm._internal.serve.routing_policies.kv_aware import constants, kv_token_tracker
from ray.serve._private.common import DeploymentID

from kvatlas.cluster.serve.llm import seams
from kvatlas.cluster.serve.llm.application import Application
from kvatlas.cluster.serve.llm.environment import VARIABLES, check_environment, missing_variables
from kvatlas.cluster.serve.llm.options import RouterOptions, read_options
from kvatlas.index.errors import ConfigError
from tests.cluster.serve.llm.ray_parts import Tracker

PREPARE = "from kvatlas.cluster.serve.llm.environment import prepare_environment; prepare_environment()"


def in_a_new_process(program: str) -> str:
    """Its last line, of output or error."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[-1]


@pytest.mark.slow
def test_prepared_before_it_is_imported_ray_reads_the_variables() -> None:
    program = (
        f"{PREPARE}\n"
        "import ray.serve._private.constants as serve, ray.llm._internal.serve.constants as llm\n"
        "print(serve.RAY_SERVE_ENABLE_HA_PROXY, serve.RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY,"
        " llm.RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING)"
    )
    assert in_a_new_process(program) == "True True True"


@pytest.mark.slow
def test_prepared_too_late_all_variables_are_named() -> None:
    said = in_a_new_process(f"import ray.serve\n{PREPARE}")
    assert all(f"{name}=1" in said for name in VARIABLES)


def test_a_process_without_the_variables_is_refused_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    check_environment()
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY")
    monkeypatch.setenv("RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING", "true")  # Ray takes "1" alone
    assert set(missing_variables()) == {"RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING"}
    with pytest.raises(ConfigError, match="RAY_SERVE_ENABLE_HA_PROXY=1"):
        check_environment()


def test_this_ray_has_all_that_the_router_needs() -> None:
    seams.probe()


def test_a_ray_that_lacks_a_name_is_refused_with_all_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(kv_token_tracker, "get_kv_token_tracker")
    monkeypatch.setattr(constants, "REQUEST_TOKEN_IDS_KWARG", "other")
    with pytest.raises(seams.SeamError, match="built for Ray") as raised:
        seams.probe()
    assert "get_kv_token_tracker: expected it" in str(raised.value)
    assert "expected 'request_token_ids', got 'other'" in str(raised.value)


def test_a_ray_whose_method_takes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def on_lifecycle_events(self: Any, events: Any, more: Any) -> None: ...

    monkeypatch.setattr(kv_token_tracker.KVTokenTracker, "on_lifecycle_events", on_lifecycle_events)
    with pytest.raises(seams.SeamError, match=r"expected the parameters \('self', 'events'\)"):
        seams.probe()


def test_a_tracker_of_another_shape_is_refused_and_left_as_it_is() -> None:
    class Other:
        async def on_lifecycle_events(self, events: Any) -> str:
            return "its own"

    with pytest.raises(seams.SeamError, match="_svc"):
        seams.TrackerSeam(Other())


def test_options_are_read_from_json_and_refused_with_their_path() -> None:
    assert read_options({}) == RouterOptions()
    read = read_options({"choosing": {"policy": "least_loaded"}, "arrival_s_max": 3})
    assert (read.choosing.policy, read.arrival_s_max) == ("least_loaded", 3)
    for kwargs, path in (
        ({"chosing": {}}, "chosing"),
        ({"choosing": {"policy": 7}}, r"\$\.choosing\.policy"),
        ({"arrival_s_max": 0}, "arrival_s_max"),
        ({"choosing": {"temperature": -1}}, "temperature"),
    ):
        with pytest.raises(ConfigError, match=path):
            read_options(kwargs)


def test_an_llm_router_with_options_that_cannot_be_read_goes_by_the_defaults_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv_token_tracker, "_KV_TOKEN_TRACKER", None)
    deployment = DeploymentID("LLMServer:tiny", "an app of its own")
    assert Application.of_process(deployment, {"chosing": {}}) is None  # no LLMRouter
    kv_token_tracker.set_kv_token_tracker(Tracker(ingress_replica_rank=0))
    application = Application.of_process(deployment, {"chosing": {}})
    assert application is not None
    try:
        assert "chosing" in application.statistics().problem
        assert Application.of_process(deployment, {}) is application
    finally:
        application.close()
