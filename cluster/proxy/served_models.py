"""Which models can be asked for by which names, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from kvatlas.index.choosing.serving import ServingPod


class ServedBy(Protocol):
    """Who knows the pods: an `Atlas`, or a reader of a cluster."""

    @property
    def serving_version(self) -> object: ...
    def serving_pods(self) -> Mapping[str, ServingPod]: ...


class Served(NamedTuple):
    """What one name stands for."""

    model: str
    adapter: str | None
    """A LoRA adapter of the model, that is asked for by its own name as vLLM has it."""
    pods: frozenset[str]
    """That can be reached."""


class ServedModels:
    """The names of one fleet, made anew when its pods have changed. On an event loop."""

    def __init__(self, fleet: ServedBy) -> None:
        self._fleet = fleet
        self._version: object = object()
        self._by_name: dict[str, Served] = {}

    def find(self, name: str | None) -> Served | None:
        """None: nobody serves it. Without a name the only model there is."""
        names = self.names()
        if name is None:
            models = [one for one in names.values() if one.adapter is None]
            return models[0] if len(models) == 1 else None
        return names.get(name)

    def names(self) -> Mapping[str, Served]:
        version = self._fleet.serving_version
        if version != self._version:
            self._by_name = _by_name(self._fleet.serving_pods())
            self._version = version
        return self._by_name


def _by_name(pods: Mapping[str, ServingPod]) -> dict[str, Served]:
    models: dict[str, set[str]] = {}
    adapters: dict[str, tuple[str, set[str]]] = {}
    for pod in pods.values():
        if pod.serving.url is None:
            continue
        models.setdefault(pod.model, set()).add(pod.pod)
        for adapter in pod.serving.adapters or ():
            adapters.setdefault(adapter, (pod.model, set()))[1].add(pod.pod)
    served = {name: Served(model, name, frozenset(having)) for name, (model, having) in adapters.items()}
    served.update({model: Served(model, None, frozenset(having)) for model, having in models.items()})
    return served
