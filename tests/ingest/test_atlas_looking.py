"""What an embedded atlas gives to whoever chooses: looks at prompts, and pods that requests can go to."""

from __future__ import annotations

import pytest

from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.errors import InputError
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.simulator.server import SimulatedServer

MODEL = "m"
PROMPT = list(range(1000))


def told(atlas: Atlas, pod: str = "a", rank: int | None = None) -> SimulatedServer:
    """A server that holds the prompt, whose events the atlas has."""
    payloads: list[bytes] = []
    server = SimulatedServer(pod, MODEL, data_parallel_rank=rank, publish=payloads.append)
    server.serve(PROMPT)
    for seq, payload in enumerate(payloads):
        atlas.ingest(f"kv@{pod}@{MODEL}".encode(), seq, payload)
    return server


def test_a_look_finds_what_scores_do_and_names_the_workers() -> None:
    atlas = Atlas()
    server = told(atlas)
    look = atlas.look(PROMPT, model=MODEL)
    assert [look.fleet.names[number] for number in look.matches.workers.tolist()] == [("a", 0)]
    reused = int(look.matches.blocks[0]) * look.question.block_size_tokens
    assert reused == server.cached_tokens(PROMPT) == atlas.score(PROMPT, model=MODEL).matches[0].cached_tokens
    assert [view.pod for view in look.fleet.views(MODEL)] == ["a"]


def test_a_look_without_token_ids_sees_the_workers_alone() -> None:
    atlas = Atlas()
    assert atlas.look(b"", model=MODEL).fleet.views(MODEL) == []
    told(atlas)
    look = atlas.look(b"", model=MODEL)
    assert (len(look.matches.workers), len(look.fleet.views(MODEL))) == (0, 1)


def test_looks_have_one_version_until_the_workers_change() -> None:
    atlas = Atlas()
    told(atlas)
    first, again = atlas.look(PROMPT, model=MODEL), atlas.look(PROMPT[:500], model=MODEL)
    assert first.version == again.version
    told(atlas, "b")
    changed = atlas.look(PROMPT, model=MODEL).version
    assert changed != first.version
    atlas.remove_pod("b")
    assert atlas.look(PROMPT, model=MODEL).version not in (first.version, changed)


def test_pods_that_are_described_and_pods_that_are_heard_can_be_chosen() -> None:
    atlas = Atlas()
    version = atlas.serving_version
    told(atlas)
    assert atlas.serving_pods() == {"a": ServingPod(pod="a", model=MODEL)}
    assert atlas.serving_version != version
    described = ServingPod(pod="a", model=MODEL, serving=Serving(url="http://a:1"), labels={"zone": "z"})
    mute = ServingPod(pod="mute", model="other")
    version = atlas.serving_version
    for pod in (described, mute):
        atlas.set_serving(pod.pod, pod)
    assert atlas.serving_version != version
    assert atlas.serving_pods() == {"a": described, "mute": mute}
    atlas.set_serving("mute", None)
    atlas.set_serving("never", None)
    assert set(atlas.serving_pods()) == {"a"}
    atlas.remove_pod("a")
    assert atlas.serving_pods() == {"a": described}, "its events are gone, what was said of it is not"


def test_ranks_that_are_heard_are_counted() -> None:
    atlas = Atlas()
    told(atlas, rank=3)
    assert atlas.serving_pods()["a"].serving.ranks == 4


def test_a_pod_cannot_be_described_under_another_name() -> None:
    with pytest.raises(InputError, match="expected 'a', got 'b'"):
        Atlas().set_serving("a", ServingPod(pod="b", model=MODEL))


def test_pods_and_block_sizes_can_be_told_while_it_runs() -> None:
    atlas = Atlas()
    atlas.set_pod("a", PodConfig(model=MODEL, gpu_blocks=100))
    atlas.set_block_size(MODEL, 16)
    assert atlas.look(PROMPT, model=MODEL).question.block_size_tokens == 16
    with pytest.raises(InputError):
        atlas.set_block_size(MODEL, 0)
