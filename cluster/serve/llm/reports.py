"""In a replica: what its engine has of each request, told to the routers beside what Ray tells.

Ray reports the first token and the end of a request. A router wants to know of its arrival too, so that
what never arrives is not waited for, and how much of its prompt was cached.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from kvatlas.cluster.serve.llm import seams
from kvatlas.cluster.serve.replicas.replica_pods import pod_name

ARRIVED = "kvatlas_arrived"
"""(request id, pod): the engine has begun with it, perhaps as one that waits."""
ENDED = "kvatlas_ended"
"""(request id, pod, cached tokens or None, output tokens): comes before Ray's own `on_request_completed`."""

_log = logging.getLogger(__name__)


def install() -> bool:
    """Have this process's engine report; false where it is no replica, or Ray has moved the seam.

    Every engine that is made afterwards reports. Twice is fine.
    """
    module: Any = sys.modules.get(seams.TOKEN_TRACKING_MODULE)
    if module is None:
        return False
    if getattr(module.RequestTokenTracker, "reports_to_kvatlas", False):
        return True
    needed = (seams.OBSERVED_BEGIN, seams.OBSERVED_OUTPUT, seams.OBSERVED_END)
    different = [problem for seam in needed if (problem := seams.difference(seam))]
    if different:
        _log.warning("replicas report neither arrivals nor cached tokens: %s", "; ".join(different))
        return False
    module.RequestTokenTracker = reporting(module.RequestTokenTracker, _own_pod)
    return True


def reporting(ray_class: type[Any], own_pod: Any) -> type[Any]:
    """Ray's observer of one request's outputs, which also reports what is ours."""

    class ReportingTracker(ray_class):  # type: ignore[misc]
        reports_to_kvatlas = True

        def __init__(self, forwarder: Any, request_id: str, report_decode_progress: bool = False) -> None:
            super().__init__(forwarder, request_id, report_decode_progress)
            self._report = forwarder.report
            self._of = (request_id, own_pod())
            self._cached_tokens: int | None = None
            self._output_tokens = 0
            self._has_ended = False
            self._report(ARRIVED, *self._of)

        def on_output(self, output: Any) -> None:
            super().on_output(output)
            self._output_tokens += sum(len(one.token_ids or ()) for one in output.outputs)
            if self._cached_tokens is None:
                self._cached_tokens = getattr(output, "num_cached_tokens", None)

        def finish(self) -> None:
            if not self._has_ended:
                self._has_ended = True
                self._report(ENDED, *self._of, self._cached_tokens, self._output_tokens)
            super().finish()

    return ReportingTracker


def _own_pod() -> str:
    from ray import serve

    return pod_name(serve.get_replica_context().replica_id)
