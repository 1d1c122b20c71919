"""What becomes of requests, by the name of the call that tells it."""

from __future__ import annotations

from kvatlas.cluster.gateway.web.questions import Completed, Failed, PrefillDone, Produced

Feedback = PrefillDone | Produced | Completed | Failed

FEEDBACK: dict[str, type[Feedback]] = {
    "prefill_done": PrefillDone,
    "produced": Produced,
    "completed": Completed,
    "failed": Failed,
}
