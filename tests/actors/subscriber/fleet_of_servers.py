"""Simulated servers without sockets, whose batches go into a FleetMirror: something to be sent to shards."""

from __future__ import annotations

from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.fleet_mirror import FleetMirror
from kvatlas.ingest.numbering import LeasedNumbers
from kvatlas.ingest.outlet import GatheringOutlet
from kvatlas.ingest.simulator.offload_chunks import SharedStorage
from kvatlas.ingest.simulator.server import SimulatedServer

BLOCK_SIZE = 4
MODEL = "m"
CONFIG = AtlasConfig(models={MODEL: ModelConfig(block_size_tokens=BLOCK_SIZE)})
LANES, WORKERS = (100, 400), (40, 200)
N_SERVERS = 3


class FleetOfServers:
    """Three servers of one model and their mirrors: a plain one, one with a window, one that offloads."""

    def __init__(self, *, gathered_bytes_max: int = 1 << 20) -> None:
        self.outlet = GatheringOutlet(bytes_max=gathered_bytes_max)
        numbers = LeasedNumbers(rest_s=0.0)
        numbers.lease([LANES], [WORKERS])
        self.mirror = FleetMirror(CONFIG, self.outlet, numbers, hash_seed="seed")
        self.keys_seen: set[int] = set()
        self._storage = SharedStorage()
        self._sequence: dict[str, int] = {}
        self._n_made = 0
        self.servers = [self._new(number) for number in range(N_SERVERS)]

    def _new(self, number: int) -> SimulatedServer:
        pod = f"pod{number}-{self._n_made}"
        self._n_made += 1
        self._sequence[pod] = 0
        self.mirror.set_pod(pod, PodConfig(stores=("nfs",)))
        return SimulatedServer(
            pod,
            MODEL,
            block_size=BLOCK_SIZE,
            blocks=24 if number == 1 else 300,
            window_tokens=8 if number == 1 else None,
            cpu_blocks=16 if number == 2 else 0,
            storage=self._storage if number == 2 else None,
            publish=lambda payload: self._tell(pod, payload),
        )

    def _tell(self, pod: str, payload: bytes) -> None:
        self.mirror.ingest(f"kv@{pod}@{MODEL}".encode(), self._sequence[pod], payload)
        self._sequence[pod] += 1
        self.keys_seen |= {key for _, key in self.expected()}

    def serve(self, number: int, tokens: list[int], output: int = 1) -> None:
        self.servers[number].serve(tokens, output)

    def restart(self, number: int) -> None:
        """The engine is empty, and its numbers go on where they were: only a clear says so."""
        self.servers[number].reset(external=True)
        self.servers[number].step()

    def replace(self, number: int) -> None:
        """The pod leaves; another comes in its place."""
        self.mirror.remove_pod(self.servers[number].pod)
        self.servers[number] = self._new(number)

    def expected(self) -> dict[tuple[int, int], int]:
        """Tier bits by (lane, key), as the mirrors have it."""
        residency = self.mirror.residency(MODEL)
        return {
            (lane, key): tiers
            for lane, name in self.mirror.fleet.lane_names.items()
            for key, tiers in residency.get(name, {}).items()
            if tiers
        }
