"""What of Ray Serve LLM this router holds on to, all in one place, and whether this Ray has it.

Ray promises none of these names. `probe` looks at each, with its shape, before anything is built on it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from kvatlas.index.errors import ConfigError

TESTED_RAY = "2.60"

_KV_AWARE = "ray.llm._internal.serve.routing_policies.kv_aware"
TRACKER_MODULE = f"{_KV_AWARE}.kv_token_tracker"
CONSTANTS_MODULE = f"{_KV_AWARE}.constants"
TOKENIZER_MODULE = f"{_KV_AWARE}.vllm.tokenizer"
TOKEN_TRACKING_MODULE = f"{_KV_AWARE}.vllm.token_tracking"

COMPLETED = "on_request_completed"
PREFILLED = "on_prefill_complete"
PROGRESSED = "on_decode_progress"
LLM_ROUTER = "LLMRouter"
"""Name of the deployment that asks for a replica before a request is sent."""
TOKEN_IDS = "request_token_ids"
"""Keyword of the routed call that has the prompt's token ids."""

_log = logging.getLogger(__name__)


class SeamError(ConfigError):
    """This Ray is not as the router needs it; nothing was changed in it."""


class Seam(NamedTuple):
    """A name in a module of Ray, and the parameters that it must take, where it is called or replaced."""

    module: str
    name: str
    parameters: tuple[str, ...] = ()


NEEDED = (
    Seam("ray.serve.request_router", "RequestRouter.update_replicas", ("self", "replicas")),
    Seam(
        "ray.serve.request_router",
        "RequestRouter.choose_replicas",
        ("self", "candidate_replicas", "pending_request"),
    ),
    Seam("ray.serve.request_router", "RunningReplica.routing_stats"),
    Seam("ray.serve.request_router", "RunningReplica.multiplexed_model_ids"),
    Seam("ray.serve.request_router", "RunningReplica.backend_http_endpoint"),
    Seam(TRACKER_MODULE, "get_kv_token_tracker"),
    Seam(TRACKER_MODULE, "KVTokenTracker.on_lifecycle_events", ("self", "events")),
    Seam(TRACKER_MODULE, "KVTokenTracker.on_reservations_created", ("self", "reservations")),
    Seam(TRACKER_MODULE, "ReservationBroadcastForwarder.report", ("self", "reservation")),
)
"""Without one of them there is no router."""

VALUES = {
    (CONSTANTS_MODULE, "REQUEST_TOKEN_IDS_KWARG"): TOKEN_IDS,
    (TRACKER_MODULE, "LLM_ROUTER_DEPLOYMENT_NAME"): LLM_ROUTER,
    (TRACKER_MODULE, "LIFECYCLE_HOOKS"): frozenset({PREFILLED, PROGRESSED, COMPLETED}),
}

TOKENIZE = Seam(TOKENIZER_MODULE, "Tokenizer.tokenize", ("self", "payload"))
"""Without it client errors become 503, and batch prompts are not scored."""
OBSERVED_OUTPUT = Seam(TOKEN_TRACKING_MODULE, "RequestTokenTracker.on_output", ("self", "output"))
OBSERVED_END = Seam(TOKEN_TRACKING_MODULE, "RequestTokenTracker.finish", ("self",))
OBSERVED_BEGIN = Seam(
    TOKEN_TRACKING_MODULE,
    "RequestTokenTracker.__init__",
    ("self", "forwarder", "request_id", "report_decode_progress"),
)
"""Without these three replicas report neither arrivals nor cached tokens."""


def probe() -> None:
    """Raises SeamError, with all that differs, when this Ray is not one to build on."""
    different = [problem for seam in NEEDED if (problem := difference(seam))]
    for (module, name), expected in VALUES.items():
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            different.append(f"{module}.{name}: expected {expected!r}, got {error}")
        else:
            if found != expected:
                different.append(f"{module}.{name}: expected {expected!r}, got {found!r}")
    version = getattr(import_module("ray"), "__version__", "?")
    if different:
        raise SeamError(
            f"Ray {version}: KvatlasRouter is built for Ray {TESTED_RAY} and needs what this one does not "
            "have: " + "; ".join(different)
        )
    if not version.startswith(f"{TESTED_RAY}."):
        _log.warning("Ray %s has all that KvatlasRouter needs, but it was tried with %s", version, TESTED_RAY)


def difference(seam: Seam) -> str:
    """How a seam is not as it should be; empty: it is."""
    where = f"{seam.module}.{seam.name}"
    try:
        found: Any = import_module(seam.module)
        for name in seam.name.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        return f"{where}: expected it, got {error}"
    if not seam.parameters:
        return ""
    try:
        parameters = tuple(inspect.signature(found).parameters)
    except (TypeError, ValueError) as error:
        return f"{where}: expected a function, got {error}"
    if parameters != seam.parameters:
        return f"{where}: expected the parameters {seam.parameters}, got {parameters}"
    return ""


class TrackerSeam:
    """Ray's tracker of one LLMRouter process, with its two doors for news turned to us.

    It goes on being told of replicas by Ray, and knows none of our requests.
    """

    def __init__(self, tracker: Any) -> None:
        """Raises SeamError where the tracker lacks what its class had at `probe`."""
        for name in ("_svc", "_ingress_replica_rank", "_reservation_forwarder"):
            if not hasattr(tracker, name):
                raise SeamError(f"{TRACKER_MODULE}.KVTokenTracker.{name}: expected it, got none")
        self._tracker = tracker

    @property
    def rank(self) -> int | None:
        """Of this LLMRouter among its replicas; Ray marks broadcasts with it."""
        rank: int | None = self._tracker._ingress_replica_rank
        return rank

    def turn(self, on_events: Callable[..., Any], on_reservations: Callable[..., Any]) -> None:
        """Have both coroutine functions called in place of the tracker's own, and Dynamo let go."""
        self._tracker.on_lifecycle_events = on_events
        self._tracker.on_reservations_created = on_reservations
        self._tracker._svc = None  # where ai-dynamo is installed, its listeners end with it

    def tell_peers(self, reservation: Mapping[str, Any]) -> None:
        """Have Ray broadcast it to all LLMRouters, this one among them. Never waits."""
        forwarder = self._tracker._reservation_forwarder
        if forwarder is not None:
            forwarder.report(dict(reservation))


def tracker_of_process() -> Any:
    """Ray's tracker; None in a process that is no LLMRouter."""
    return import_module(TRACKER_MODULE).get_kv_token_tracker()
