"""The Kubernetes watch through the official client, against an API that speaks the protocol."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.discovery.config import KubernetesWatchConfig
from kvatlas.ingest.discovery.kube.watch import KubernetesWatch
from tests.ingest.discovery.kubernetes_api import KubernetesApi, pod
from tests.ingest.discovery.told_pods import ToldPods


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi() as api:
        yield api


@pytest.fixture
def told() -> ToldPods:
    return ToldPods()


class Running:
    """A watch of the fixture's API, with short pauses."""

    def __init__(self, api: KubernetesApi, told: ToldPods, folder: Path, **settings: Any) -> None:
        token = settings.pop("token", None)
        kubeconfig = api.write_kubeconfig(
            folder / "kubeconfig", **({} if token is None else {"token": token})
        )
        limits: dict[str, Any] = {"retry_s_min": 0.01, "retry_s_max": 0.05}
        self.watch = KubernetesWatch(KubernetesWatchConfig(kubeconfig=kubeconfig, **(limits | settings)))
        self.told = told

    def __enter__(self) -> Running:
        self.watch.start(self.told)
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.stop()
        assert not self.watch._thread.is_alive()  # pyright: ignore[reportPrivateUsage]

    def count(self, name: str) -> int:
        return self.watch.statistics().counts.get(name, 0)

    def wait_for_count(self, name: str, least: int = 1) -> bool:
        return self.told.wait_until(lambda: self.count(name) >= least)


@pytest.mark.slow
def test_pods_that_are_there_and_pods_that_come_and_go_are_told(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("a", "10.0.0.1", labels={"llm-d.ai/model": "some/model"}))
    with Running(api, told, tmp_path):
        assert told.wait_for("a")
        (source,) = told.pods["a"].sources
        assert (source.endpoint, source.replay_endpoint) == ("tcp://10.0.0.1:5557", "tcp://10.0.0.1:5558")
        assert (told.pods["a"].model, told.pods["a"].node) == ("some/model", "192.168.7.1")
        api.apply(pod("b", "10.0.0.2"))
        assert told.wait_for("a", "b")
        api.delete("a")
        assert told.wait_for("b")
    assert api.requests == {"list": 1, "watch": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"phase": "Pending", "conditions": [], "podIP": "10.0.0.2"}},
        {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}},
        {
            "status": {
                "phase": "Running",
                "podIP": "10.0.0.2",
                "conditions": [{"type": "Ready", "status": "False"}],
            }
        },
        {"status": {"phase": "Succeeded", "podIP": "10.0.0.2"}},
        {"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}},
    ],
    ids=["pending", "without an address", "not ready", "succeeded", "being deleted"],
)
def test_a_pod_counts_only_while_it_runs_is_ready_and_has_an_address(
    api: KubernetesApi, told: ToldPods, tmp_path: Path, change: dict[str, Any]
) -> None:
    good = pod("b", "10.0.0.2")
    bad = copy.deepcopy(good)
    for part, values in change.items():
        bad[part] = {**bad[part], **values} if part == "metadata" else values
    api.apply(pod("a", "10.0.0.1"))
    api.apply(bad)
    with Running(api, told, tmp_path):
        assert told.wait_for("a")
        api.apply(good)
        assert told.wait_for("a", "b")
        api.apply(bad)
        assert told.wait_for("a")


def test_other_labels_and_other_namespaces_are_not_looked_at(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("other", "10.0.0.3", namespace="elsewhere"))
    other = pod("web", "10.0.0.4")
    other["metadata"]["labels"] = {"app": "web"}
    api.apply(other)
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path):
        assert told.wait_for("a")
        api.apply(pod("b", "10.0.0.2", namespace="elsewhere"))
        api.apply(pod("c", "10.0.0.5"))
        assert told.wait_for("a", "c")
    with Running(api, told, tmp_path, all_namespaces=True, pod_id="namespace/name"):
        assert told.wait_for("models/a", "models/c", "elsewhere/b", "elsewhere/other")


@pytest.mark.slow
def test_a_list_in_pages_is_put_together(api: KubernetesApi, told: ToldPods, tmp_path: Path) -> None:
    for number in range(25):
        api.apply(pod(f"p{number:02}", f"10.0.1.{number}"))
    with Running(api, told, tmp_path, page_pods=10):
        assert told.wait_for(*(f"p{number:02}" for number in range(25)))
    assert api.requests["list"] == 3


def test_pages_that_expire_while_they_are_read_are_read_again_as_one(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    for number in range(25):
        api.apply(pod(f"p{number:02}", f"10.0.1.{number}"))
    api.before_page = lambda number: api.forget_history() if number == 10 else None
    with Running(api, told, tmp_path, page_pods=10) as running:
        assert told.wait_until(lambda: len(told.pods) == 25)
        assert running.count("gone") == 1
    lists = [query for query in api.asked if "watch" not in query]
    assert [query.get("limit") for query in lists] == ["10", "10", None]


@pytest.mark.parametrize("end", [False, True], ids=["cut", "ended"])
def test_a_watch_that_drops_goes_on_where_it_was(
    api: KubernetesApi, told: ToldPods, tmp_path: Path, end: bool
) -> None:
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path) as running:
        assert told.wait_for("a")
        for number in range(3):
            assert api.wait_until(lambda: api.watching == 1)
            api.drop_watches(end=end)
            api.apply(pod(f"b{number}", f"10.0.0.{10 + number}"))
            assert told.wait_until(lambda number=number: f"b{number}" in told.pods)  # type: ignore[misc]
        assert running.wait_for_count("watches_ended" if end else "watches_broken", 3)
        assert running.watch.statistics().failing is None
    assert api.requests["list"] == 1
    assert told.replaced == 1


def test_gone_has_everything_listed_again(api: KubernetesApi, told: ToldPods, tmp_path: Path) -> None:
    api.apply(pod("a", "10.0.0.1"))
    api.apply(pod("b", "10.0.0.2"))
    with Running(api, told, tmp_path) as running:
        assert told.wait_for("a", "b")
        assert api.wait_until(lambda: api.watching == 1)
        with api.changed:  # all at once, so that no watch comes between
            api.delete("a")
            api.apply(pod("c", "10.0.0.3"))
            api.forget_history()
            api.drop_watches()
        assert told.wait_for("b", "c")
        assert running.count("gone") == 1
    assert api.requests["list"] == 2


def test_bookmarks_carry_a_quiet_watch_over_forgotten_history(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path) as running:
        assert told.wait_for("a")
        assert api.wait_until(lambda: api.watching == 1)
        with api.changed:
            api.version += 100
            api.bookmark()
        assert running.wait_for_count("events")
        api.oldest = api.version
        api.drop_watches()
        assert running.wait_for_count("watches_broken")
        api.apply(pod("b", "10.0.0.2"))
        assert told.wait_for("a", "b")
        assert running.count("gone") == 0
    assert api.requests["list"] == 1


def test_old_objects_change_nothing(api: KubernetesApi, told: ToldPods, tmp_path: Path) -> None:
    first = api.apply(pod("a", "10.0.0.1"))
    api.apply(pod("a", "10.0.0.9"))
    gone = api.apply(pod("g", "10.0.0.7"))
    with Running(api, told, tmp_path) as running:
        assert told.wait_for("a", "g")
        api.send("MODIFIED", first)
        api.delete("g")
        api.send("MODIFIED", gone)  # of an object that was deleted
        api.send("ADDED", gone)
        assert running.wait_for_count("old_objects", 3)
        assert told.wait_for("a")
        assert told.pods["a"].sources[0].endpoint == "tcp://10.0.0.9:5557"


def test_the_end_of_an_old_incarnation_does_not_take_the_new_one_of_its_name(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    old = api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path) as running:
        assert told.wait_for("a")
        api.delete("a")
        assert told.wait_for()
        api.apply(pod("a", "10.0.0.2"))
        assert told.wait_for("a")
        events = running.count("events")
        api.send("DELETED", old)
        assert running.wait_for_count("events", events + 1)
        assert told.pods["a"].sources[0].endpoint == "tcp://10.0.0.2:5557"


def test_a_list_older_than_what_is_known_is_not_taken(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path) as running:
        assert told.wait_for("a")
        assert api.wait_until(lambda: api.watching == 1)
        api.stale_lists = [{"metadata": {"resourceVersion": "5"}, "items": []}] * 2
        api.forget_history()
        api.drop_watches()
        assert running.wait_for_count("lists", 2)
        assert running.count("old_lists") == 2
        assert set(told.pods) == {"a"}


def test_an_api_that_has_gone_back_is_believed_after_a_while(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path):
        assert told.wait_for("a")
        assert api.wait_until(lambda: api.watching == 1)
        with api.changed:  # a backup from long ago is restored
            api.objects.clear()
            api.history.clear()
            api.version = 10
            api.apply(pod("b", "10.0.0.2"))
            api.oldest = 10**6
            api.drop_watches()
        assert api.wait_until(lambda: api.requests["list"] >= 2)
        api.oldest = 0
        assert told.wait_for("b")


def test_as_long_as_the_api_refuses_what_was_known_stays_and_it_says_why(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path) as running:
        assert told.wait_for("a")
        assert api.wait_until(lambda: api.watching == 1)
        api.refuse_with = 403
        api.drop_watches()
        assert told.wait_until(lambda: "needs list and watch" in (running.watch.statistics().failing or ""))
        assert running.wait_for_count("requests_failed", 6)
        assert set(told.pods) == {"a"}
        api.refuse_with = None
        assert told.wait_until(lambda: running.watch.statistics().failing is None)


def test_a_wrong_token_is_said(api: KubernetesApi, told: ToldPods, tmp_path: Path) -> None:
    with Running(api, told, tmp_path, token="wrong") as running:
        assert told.wait_until(lambda: "401" in (running.watch.statistics().failing or ""))
        assert told.replaced == 0


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b'{"type": 1}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": 7}}}\n',
        b'{"type": "MODIFIED", "object": "\xff"}\n',
        b'{"type": "ERROR", "object": {"code": 500, "message": "etcd"}}\n',
        b"x" * 5000 + b"\n",
        b"x" * 5000,
    ],
)
def test_a_line_that_is_no_event_breaks_the_watch_and_no_more(
    api: KubernetesApi, told: ToldPods, tmp_path: Path, line: bytes
) -> None:
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path, answer_bytes_max=4096) as running:
        assert told.wait_for("a")
        assert api.wait_until(lambda: api.watching == 1)
        with api.changed:
            api.raw_lines = [line]
            api.changed.notify_all()
        assert running.wait_for_count("watches_broken")
        api.apply(pod("b", "10.0.0.2"))
        assert told.wait_for("a", "b")


def test_events_of_unknown_types_are_counted(api: KubernetesApi, told: ToldPods, tmp_path: Path) -> None:
    with Running(api, told, tmp_path) as running:
        assert api.wait_until(lambda: api.watching == 1)
        with api.changed:
            api.raw_lines = [json.dumps({"type": "RENAMED", "object": pod("a", "10.0.0.1")}).encode() + b"\n"]
            api.changed.notify_all()
        assert running.wait_for_count("unknown_events")
        assert not told.pods


@pytest.mark.slow
def test_a_watch_that_its_time_has_ended_is_continued_and_lists_are_repeated(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("a", "10.0.0.1"))
    with Running(api, told, tmp_path, watch_s=1.0, list_every_s=0.5) as running:
        assert running.wait_for_count("lists", 2)
        assert running.count("watches_ended") >= 1
        assert running.count("requests_failed") == 0


def test_more_objects_than_allowed_are_counted_and_left_out(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    for number in range(8):
        api.apply(pod(f"p{number}", f"10.0.1.{number}"))
    with Running(api, told, tmp_path, objects_max=5, page_pods=3) as running:
        assert told.wait_for("p0", "p1", "p2", "p3", "p4")
        assert running.count("objects_refused") >= 1
        api.apply(pod("p9", "10.0.1.9"))
        assert running.wait_for_count("objects_refused", 2)
        assert len(told.pods) == 5


def test_nobody_who_says_how_to_reach_an_api_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a way to reach the Kubernetes API"):
        KubernetesWatch(KubernetesWatchConfig(kubeconfig=str(tmp_path / "missing")))


@pytest.mark.parametrize("content", ["", "{", "[]", "contexts: 7", "current-context: x\ncontexts: []"])
def test_a_kubeconfig_that_is_none_is_a_configuration_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "kubeconfig").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a way to reach the Kubernetes API"):
        KubernetesWatch(KubernetesWatchConfig(kubeconfig=str(tmp_path / "kubeconfig")))


def test_the_namespace_is_that_of_the_context_unless_it_is_given(
    api: KubernetesApi, told: ToldPods, tmp_path: Path
) -> None:
    api.apply(pod("b", "10.0.0.2", namespace="elsewhere"))
    with Running(api, told, tmp_path, namespace="elsewhere"):
        assert told.wait_for("b")
