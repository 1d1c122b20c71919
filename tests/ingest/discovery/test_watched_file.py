"""The watched file: replaced, half written, wrong, gone; and what may be in it."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.ingest.discovery.config import FileWatchConfig
from kvatlas.ingest.discovery.pod_file import parse_pods
from kvatlas.ingest.discovery.watched_file import WatchedFile
from tests.ingest.discovery.told_pods import ToldPods


def text(*names: str) -> str:
    return "pods:\n" + "".join(f"- {{pod: {name}, endpoint: 'tcp://{name}:5557'}}\n" for name in names)


class Rig:
    """A watch whose thread is not started: the test looks."""

    def __init__(self, path: Path, **config: float) -> None:
        self.path = path
        self.now_s = 0.0
        self.told = ToldPods()
        self.watch = WatchedFile(FileWatchConfig(path=str(path), **config), lambda: self.now_s)  # type: ignore[arg-type]
        self.watch._sink = self.told  # pyright: ignore[reportPrivateUsage]

    def write(self, content: str) -> None:
        """Replaced as a whole, as careful writers do."""
        new = self.path.with_suffix(".new")
        new.write_text(content, encoding="utf-8")
        os.replace(new, self.path)

    def look(self, after_s: float = 1.0) -> None:
        """Notice a change, and once more when it has settled."""
        self.watch.look()
        self.now_s += after_s
        self.watch.look()

    @property
    def failing(self) -> str:
        return self.watch.statistics().failing or ""


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path / "pods.yaml")
    rig.write(text("a"))
    rig.look()
    assert set(rig.told.pods) == {"a"}
    return rig


def test_a_file_that_is_replaced_is_read_again(rig: Rig) -> None:
    rig.write(text("a", "b"))
    rig.look()
    assert set(rig.told.pods) == {"a", "b"}
    rig.write("pods: []\n")
    rig.look()
    assert not rig.told.pods


def test_a_file_that_stays_is_told_once(rig: Rig) -> None:
    for _ in range(5):
        rig.look(100)
    os.utime(rig.path, (1, 1))
    rig.look()
    assert rig.told.replaced == 1


def test_a_file_that_is_being_written_is_left_alone_until_it_stays(rig: Rig) -> None:
    rig.path.write_text(text("a", "b")[:40], encoding="utf-8")
    rig.watch.look()
    rig.now_s += 0.1
    rig.watch.look()
    rig.path.write_text(text("a", "b"), encoding="utf-8")
    rig.now_s += 0.15
    rig.watch.look()  # changed since the last look: the time begins anew
    assert set(rig.told.pods) == {"a"}
    rig.now_s += 0.25
    rig.watch.look()
    assert set(rig.told.pods) == {"a", "b"}
    assert rig.told.replaced == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "got an empty file"),
        ("  \n", "got an empty file"),
        ("pods:\n", "Expected `array`"),
        ("# nothing\n", "Expected `object`"),
        ("pods: [", "expected YAML or JSON"),
        ("pods:\n- {pod: a, endpoint: 'tcp://a:5557'}\n- {pod: b", "expected YAML or JSON"),
        ("pods:\n- {pod: b}\n", r"expected one of endpoint, sources and url.*\$.pods\[0\]"),
        (text("a") + "- {pod: b, endpoint: 'tcp://b:0'}\n", r"tcp://HOST:PORT.*\$.pods\[1\]"),
        (text("a") + "extra: 1\n", "unknown field `extra`"),
        ("pods: []\nversion: 2\n", "version: expected 1, got 2"),
        ("pods: &a [*a]\n", "expected"),
        ("pods: !!python/object/apply:os.getcwd []\n", "expected YAML or JSON"),
        ("\x00", "expected"),
    ],
)
def test_a_file_that_is_wrong_changes_nothing_and_says_why(rig: Rig, content: str, message: str) -> None:
    rig.write(content)
    rig.look()
    assert set(rig.told.pods) == {"a"}
    assert re.search(message, rig.failing), rig.failing
    rig.look()
    assert rig.watch.statistics().counts["not_read"] == 1
    rig.write(text("a", "b"))
    rig.look()
    assert set(rig.told.pods) == {"a", "b"}
    assert rig.failing == ""


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(rig: Rig) -> None:
    rig.path.unlink()
    rig.look()
    assert set(rig.told.pods) == {"a"}
    assert "cannot read" in rig.failing
    rig.write(text("a"))
    rig.look()
    assert rig.failing == ""
    assert set(rig.told.pods) == {"a"}


def test_a_wrong_file_that_is_gone_and_back_is_still_wrong(rig: Rig) -> None:
    rig.write("pods: [")
    rig.look()
    rig.path.unlink()
    rig.look()
    assert "cannot read" in rig.failing
    rig.write("pods: [")
    rig.look()
    assert "expected YAML or JSON" in rig.failing


def test_a_folder_a_pipe_or_a_file_too_long_is_not_read(rig: Rig) -> None:
    rig.path.unlink()
    rig.path.mkdir()
    rig.look()
    assert "expected a file, got a folder" in rig.failing
    rig.path.rmdir()
    os.mkfifo(rig.path)  # whoever opens it waits for a writer
    rig.look()
    assert "expected a file" in rig.failing
    rig.path.unlink()
    rig.watch = WatchedFile(FileWatchConfig(path=str(rig.path), file_bytes_max=10), lambda: rig.now_s)
    rig.write(text("a"))
    rig.look()
    assert "expected at most 10 bytes" in rig.failing


def test_content_that_changes_under_the_same_size_and_time_is_seen_in_the_end(rig: Rig) -> None:
    before = rig.path.stat()
    with rig.path.open("r+") as file:
        file.write(text("b"))
    os.utime(rig.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    rig.look()
    assert set(rig.told.pods) == {"a"}
    rig.look(60)
    assert set(rig.told.pods) == {"b"}


def test_its_thread_sees_a_file_behind_a_link_that_is_turned(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / f"version-{number}").mkdir()
        (tmp_path / f"version-{number}" / "pods.yaml").write_text(text(name), encoding="utf-8")
    link = tmp_path / "current"
    link.symlink_to("version-0")  # as Kubernetes mounts a ConfigMap
    told = ToldPods()
    watch = WatchedFile(FileWatchConfig(path=str(link / "pods.yaml"), look_every_s=0.02, settle_s=0.02))
    watch.start(told)
    try:
        assert told.wait_for("a")
        (tmp_path / "new").symlink_to("version-1")
        os.replace(tmp_path / "new", link)
        assert told.wait_for("b")
    finally:
        watch.stop()
        watch.stop()


def test_json_and_lists_alone_are_read() -> None:
    entries = [{"pod": "a", "endpoint": "tcp://h:1"}]
    for content in (json.dumps(entries), json.dumps({"pods": entries}), "- {pod: a, endpoint: 'tcp://h:1'}"):
        (pod,) = parse_pods(content.encode(), "file")
        assert (pod.pod, pod.found_by) == ("a", "file")


@pytest.mark.parametrize(
    "content",
    [
        b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (98 + n, 98 + n, b",".join([b"*%c" % (97 + n)] * 10)) for n in range(9)
        ),
        b"[" * 100_000,
        b"pods: " + b"[" * 100_000,
        b"pods: " + b"{a: " * 100_000,
        b"- " * 100_000,
    ],
    ids=["aliases", "json depth", "yaml depth", "yaml maps", "yaml lists"],
)
def test_content_made_to_unfold_or_nest_without_end_is_refused(content: bytes) -> None:
    with pytest.raises(InputError):
        parse_pods(content, "file")


@pytest.mark.slow
def test_ten_thousand_pods_in_a_file_are_read() -> None:
    assert len(parse_pods(text(*(f"p{number}" for number in range(10_000))).encode(), "file")) == 10_000


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_pods_or_one_error(content: bytes) -> None:
    with suppress(InputError):
        parse_pods(content, "file")
