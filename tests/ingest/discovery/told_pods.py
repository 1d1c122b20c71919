"""What a watch tells, kept and waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from kvatlas.ingest.discovery.pods import DiscoveredPod
from kvatlas.ingest.sockets.source_config import SourceConfig


class ToldPods:
    """A sink that holds what is true by what it was told."""

    def __init__(self) -> None:
        self.pods: dict[str, DiscoveredPod] = {}
        self.replaced = 0
        self.changed = 0
        self._told = threading.Condition()

    def replace(self, pods: Iterable[DiscoveredPod]) -> None:
        with self._told:
            self.pods = {pod.pod: pod for pod in pods}
            self.replaced += 1
            self._told.notify_all()

    def change(self, pods: Iterable[DiscoveredPod], left: Iterable[str] = ()) -> None:
        with self._told:
            for pod_id in left:
                self.pods.pop(pod_id, None)
            self.pods.update((pod.pod, pod) for pod in pods)
            self.changed += 1
            self._told.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60) -> bool:
        """Whether it came true; looked at whenever something was told, and now and then."""
        with self._told:
            for _ in range(int(timeout_s / 0.02)):
                if condition():
                    return True
                self._told.wait(0.02)
            return condition()

    def wait_for(self, *pod_ids: str, timeout_s: float = 60) -> bool:
        """Whether just these came to be known."""
        return self.wait_until(lambda: set(self.pods) == set(pod_ids), timeout_s)


def found(pod_id: str, endpoint: str = "", *, labels: dict[str, str] | None = None) -> DiscoveredPod:
    """A pod with one source."""
    source = SourceConfig(endpoint=endpoint or f"tcp://{pod_id}.example:5557", pod=pod_id or None)
    return DiscoveredPod(pod=pod_id, sources=(source,), labels=labels or {}, found_by="tests")
