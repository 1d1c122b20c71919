"""What is done to a cluster, by chance."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

from tests.chaos.chaos_cluster import ChaosCluster
from tests.chaos.traffic import Traffic

_KINDS = ("shard", "subscriber", "scorer", "directory")
_SHARDS = (2, 3, 4, 5)
_PAUSE_S = (2.0, 15.0)
_RAY_PAUSE_S = (2.0, 8.0)


class Faults:
    """Does things to a cluster and its servers; each method returns what it did."""

    def __init__(self, chaos: ChaosCluster, traffic: Traffic, chance: random.Random) -> None:
        self._chaos = chaos
        self._traffic = traffic
        self._chance = chance

    def some(self) -> list[str]:
        """One to four of them, a moment apart."""
        kinds: list[tuple[int, Callable[[], str]]] = [
            (6, self.kill_one),
            (2, self.kill_several),
            (1, self.kill_all),
            (4, self.pause_one),
            (1, self.pause_ray),
            (4, self.scale),
            (2, self.scale_and_kill),
            (1, self.lose_node),
            (6, self.disturb_server),
            (1, self.cut_server),
        ]
        chosen = self._chance.choices(
            [fault for _, fault in kinds],
            [weight for weight, _ in kinds],
            k=self._chance.choice((1, 2, 2, 3, 4)),
        )
        done = []
        for fault in chosen:
            done.append(fault())
            time.sleep(self._chance.uniform(0.0, 1.5))
        return done

    def kill_one(self) -> str:
        found = self._of(self._chance.choice(_KINDS))
        return self._kill(self._chance.sample(sorted(found), min(len(found), 1)), found)

    def kill_several(self) -> str:
        """At the same moment."""
        processes = self._up()
        names = self._chance.sample(sorted(processes), min(len(processes), self._chance.randint(2, 4)))
        return self._kill(names, processes)

    def kill_all(self) -> str:
        processes = self._up()
        return self._kill(sorted(processes), processes)

    def pause_one(self) -> str:
        found = self._of(self._chance.choice(_KINDS))
        if not found:
            return "nobody to pause"
        name = self._chance.choice(sorted(found))
        seconds = self._chance.uniform(*_PAUSE_S)
        self._chaos.pause(found[name], seconds)
        return f"pause {name} {seconds:.0f} s"

    def pause_ray(self) -> str:
        process: Literal["gcs_server", "raylet"] = self._chance.choice(("gcs_server", "raylet"))
        seconds = self._chance.uniform(*_RAY_PAUSE_S)
        self._chaos.pause_ray(process, seconds)
        return f"pause {process} {seconds:.0f} s"

    def scale(self) -> str:
        n_shards = self._chance.choice([number for number in _SHARDS if number != self._chaos.n_shards])
        heard = self._chaos.scale(n_shards)
        return f"scale {n_shards}" if heard else f"scale {n_shards} (not heard)"

    def scale_and_kill(self) -> str:
        """Somebody dies while the next layout is made, twice."""
        done = [self.scale()]
        for _ in range(2):
            time.sleep(self._chance.uniform(0.0, 3.0))
            done.append(self.kill_one())
        return ", ".join(done)

    def lose_node(self) -> str:
        """A raylet dies with all on its node; another node comes."""
        self._chaos.lose_node()
        time.sleep(self._chance.uniform(0.0, 3.0))
        self._chaos.add_node()
        return "lose node"

    def disturb_server(self) -> str:
        return self._traffic.disturb(self._chance.choice(("restart", "restart_unseen", "lose")))

    def cut_server(self) -> str:
        """Nobody reaches it for a while; sometimes it is another process afterwards."""
        done = self._traffic.disturb("cut")
        time.sleep(self._chance.uniform(0.5, 4.0))
        return done

    def _of(self, kind: str) -> dict[str, int]:
        return {name: pid for name, pid in self._up().items() if name.startswith(kind)}

    def _up(self) -> dict[str, int]:
        return {name: pid for name, pid in self._chaos.processes().items() if pid}

    def _kill(self, names: list[str], processes: dict[str, int]) -> str:
        for name in names:
            self._chaos.kill(processes[name])
        return f"kill {' '.join(names)}" if names else "nobody to kill"
