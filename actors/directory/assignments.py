"""Which subscriber follows which pods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from kvatlas.ingest.discovery.pods import DiscoveredPod


class Assignments:
    """Pods given to subscribers, each to one, and left there as long as both are wanted.

    Pods that are *tied* (they share a store of KV files, or dial one address) go together, also beyond
    `pods_each`: what is removed from a store must be heard where its additions were. A pod on a node of
    the cluster goes to a subscriber near it. When there are `subscribers_max`, pods beyond go to those
    that have the fewest. One thread at a time.
    Invariants: each pod has one subscriber; tied pods have the same; a subscriber without pods is gone,
    and its name is not used again.
    """

    def __init__(self, pods_each: int, subscribers_max: int, *, near_pods: bool) -> None:
        self._pods_each = pods_each
        self._subscribers_max = subscribers_max
        self._near_pods = near_pods
        self.next_number = 0
        """Of the next subscriber; its name is this number."""
        self.subscriber_of: dict[str, str] = {}
        """By pod."""
        self.node_of: dict[str, str] = {}
        """By subscriber: where its pods are; not there: nowhere in particular."""
        self.counts: Counter[str] = Counter()
        """`pods_moved`: to another subscriber, because a pod tied the two. `pods_beyond`: given to one
        that has `pods_each` or is elsewhere, because there may be no more subscribers."""
        self._pods: dict[str, DiscoveredPod] = {}
        self._pods_of: dict[str, set[str]] = {}

    def restore(
        self, next_number: int, subscriber_of: Mapping[str, str], pods: Mapping[str, DiscoveredPod]
    ) -> None:
        """As it was in an earlier life; before the first update."""
        self.next_number = next_number
        self._pods = dict(pods)
        for pod, name in subscriber_of.items():
            if pod in pods:
                self._give(pod, name)

    def pods_of(self, subscriber: str) -> list[DiscoveredPod]:
        """By their names; a subscriber that has none is not there."""
        return [self._pods[pod] for pod in sorted(self._pods_of.get(subscriber, ()))]

    @property
    def subscribers(self) -> tuple[str, ...]:
        return tuple(self._pods_of)

    def update(self, pods: Mapping[str, DiscoveredPod], nodes: Collection[str]) -> set[str]:
        """All pods there are now; `nodes`: names and addresses of the cluster's nodes.

        Returns the subscribers whose pods have changed, those that are gone among them.
        """
        changed: set[str] = set()
        for pod, known in self._pods.items():
            if pod not in pods or not pods[pod].feeds_as(known):
                changed.add(self.subscriber_of[pod])
        for pod in [pod for pod in self._pods if pod not in pods]:
            self._take(pod)
        self._pods = dict(pods)
        owners = self._owners(changed)
        for pod in sorted(pods.keys() - self.subscriber_of.keys()):
            name = self._owner(ties(pods[pod]), owners, changed) or self._choose(pods[pod], nodes)
            self._give(pod, name)
            changed.add(name)
            owners.update(dict.fromkeys(ties(pods[pod]), name))
        return changed

    def _owners(self, changed: set[str]) -> dict[str, str]:
        """The subscriber of each tie; pods that are tied only now are brought together."""
        owners: dict[str, str] = {}
        for pod in sorted(self.subscriber_of):
            name = self.subscriber_of[pod]
            self._owner((*ties(self._pods[pod]),), owners, changed, name)
            owners.update(dict.fromkeys(ties(self._pods[pod]), self.subscriber_of[pod]))
        return owners

    def _owner(
        self, tied: Iterable[str], owners: dict[str, str], changed: set[str], found: str | None = None
    ) -> str | None:
        """The one subscriber of all of these; where there are more, they become one."""
        for tie in tied:
            name = owners.get(tie)
            if name is not None and found is not None and name != found:
                found = self._merge(found, name, owners, changed)
            found = found or name
        return found

    def _merge(self, one: str, other: str, owners: dict[str, str], changed: set[str]) -> str:
        """All pods of the smaller go to the larger one, which is returned."""
        left, kept = sorted((one, other), key=lambda name: (len(self._pods_of[name]), -int(name)))
        for pod in sorted(self._pods_of[left]):
            self._take(pod)
            self._give(pod, kept)
            self.counts["pods_moved"] += 1
        owners.update({tie: kept for tie, name in owners.items() if name == left})
        changed |= {kept, left}
        return kept

    def _choose(self, pod: DiscoveredPod, nodes: Collection[str]) -> str:
        """One that has room and is as near as can be, or a new one."""
        node = pod.node if self._near_pods and pod.node is not None and pod.node in nodes else ""
        for name, held in self._pods_of.items():
            if len(held) < self._pods_each and self.node_of.get(name, "") == node:
                return name
        if len(self._pods_of) >= self._subscribers_max:
            self.counts["pods_beyond"] += 1
            return min(self._pods_of, key=lambda name: len(self._pods_of[name]))
        name = str(self.next_number)
        self.next_number += 1
        if node:
            self.node_of[name] = node
        return name

    def _give(self, pod: str, name: str) -> None:
        self.subscriber_of[pod] = name
        self._pods_of.setdefault(name, set()).add(pod)

    def _take(self, pod: str) -> None:
        name = self.subscriber_of.pop(pod)
        self._pods_of[name].discard(pod)
        if not self._pods_of[name]:
            del self._pods_of[name]
            self.node_of.pop(name, None)


def followed(pods: Mapping[str, DiscoveredPod]) -> dict[str, DiscoveredPod]:
    """Those that tell of their caches; the others can only be sent requests."""
    return {name: pod for name, pod in pods.items() if pod.sources}


def ties(pod: DiscoveredPod) -> Iterator[str]:
    """What this pod may share with others: stores that it reads or announces, and addresses that
    publishers dial."""
    for store in {*pod.stores, pod.announces} - {None, ""}:
        yield f"store {store}"
    for source in pod.sources:
        if source.bind:
            yield f"address {source.endpoint}"
