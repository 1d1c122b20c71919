"""KvatlasRouter: the drop-in for ray.serve.llm's KVAwareRouter.

Ray sends this class to its processes by value, with every global that its methods name: so there is no state
here, and nothing is named but what other modules hold.
"""

from __future__ import annotations

from typing import Any

from ray.serve.llm.request_router import KVAwareRouter

from kvatlas.cluster.serve.llm.application import Application, Prepared


class KvatlasRouter(Prepared, KVAwareRouter):
    """Sends each request to the replica for which it costs least; in `LLMConfig.deployment_config`:
    `request_router_config={"request_router_class": "kvatlas.cluster.serve.llm.router.KvatlasRouter"}`.

    Serve LLM advertises events, forwards token ids and reports life cycles for a KVAwareRouter and its
    subclasses alone, so this is one, and asks none of its own scoring. `request_router_kwargs` are the
    fields of `RouterOptions`.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Called once by Ray, with `request_router_kwargs`."""
        super().initialize_state()  # type: ignore[no-untyped-call]
        # None: no LLMRouter's process, such as a proxy's; nothing is followed there.
        self._kvatlas = Application.of_process(self._deployment_id, kwargs)

    def update_replicas(self, replicas: list[Any]) -> None:
        """The replicas that run now."""
        super().update_replicas(replicas)
        if self._kvatlas is not None:
            self._kvatlas.routing.update(replicas)

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """One group of one replica: here Ray takes the first of the first."""
        if self._kvatlas is None:
            groups: list[list[Any]] = await super().choose_replicas(candidate_replicas, pending_request)
            return groups
        replica = await self._kvatlas.routing.choose(candidate_replicas, pending_request)
        return [] if replica is None else [[replica]]
