"""What the tables hold, block by block, beside what the servers hold."""

from __future__ import annotations

from kvatlas.cluster.client import Client
from tests.cluster.living_fleet import Fleet


def content_differences(client: Client, fleet: Fleet, prompts: list[list[int]]) -> list[str]:
    """Blocks of these prompts that the tables say of other pods than hold them.

    Scores end with the first block that is missing; this sees those behind it too.
    """
    reader = client._reader()
    with fleet.lock:
        held = {server.pod: server.held() for server in fleet.servers}
    differences = []
    for prompt in prompts:
        now = reader._state.now
        assert now is not None
        question = now.reader.question(prompt, model=fleet.model)
        found, told = reader._look(
            now,
            [question],
            lambda index, keys=question.keys: index.lookup(keys),  # type: ignore[misc]
        )
        lane_names = told.fleet.lane_names
        names = fleet.servers[0].engine_hashes(prompt)
        for block, (name, lanes) in enumerate(zip(names, found, strict=True)):
            said = {lane_names[lane][0] for lane, _ in lanes if lane in lane_names}
            true = {pod for pod, blocks in held.items() if name in blocks}
            if said != true:
                differences.append(f"block {block} of {len(names)}: said {said}, true {true}")
    return differences
