"""The registry: sources in their order, one load a model, bad input, files that change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import InputError, TokenizerError, UnsupportedModelError
from kvatlas.tokenize.chat.chat import Chat
from kvatlas.tokenize.config import SidecarConfig, TokenizeConfig, TokenizeLimits
from kvatlas.tokenize.tokenizers import Tokenizers
from tests.tokenize.loading.model_files import CONFIG, TEMPLATE, small_tokenizer, write_cached, write_model
from tests.tokenize.scripted_pod import ScriptedPod, ids

pytestmark = pytest.mark.timeout(120)
MESSAGES = [{"role": "user", "content": "The dog"}]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own, whatever this machine's cache holds."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of two models."""
    write_model(tmp_path / "models" / "org" / "one")
    write_model(tmp_path / "models" / "two")
    return tmp_path / "models"


def made(folder: Path, **settings: Any) -> Tokenizers:
    return Tokenizers(TokenizeConfig(folders=(str(folder),), **settings))


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition that another thread makes true."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.002)


@pytest.mark.slow
def test_prompt_and_messages_give_ids(folder: Path) -> None:
    tokenizers = made(folder)
    ids = small_tokenizer().encode("The dog").ids
    assert tokenizers.tokenize("org/one", prompt="The dog").token_ids.tolist() == ids
    chats: list[Any] = [MESSAGES, Chat(messages=MESSAGES), {"messages": MESSAGES}, tuple(MESSAGES)]
    answers = [tokenizers.tokenize("two", messages=chat).token_ids.tolist() for chat in chats]
    assert answers[0] == tokenizers.encode_chat("two", Chat(messages=MESSAGES)).token_ids.tolist()
    assert all(answer == answers[0] for answer in answers)
    assert tokenizers.render_chat("two", Chat(messages=MESSAGES)).startswith("<|ab|><|a|>user\nThe dog")
    many = tokenizers.encode_many("two", ["The dog", "The"], add_special_tokens=False)
    assert [prompt.token_ids.tolist() for prompt in many] == [
        small_tokenizer().encode(text, add_special_tokens=False).ids for text in ("The dog", "The")
    ]


@pytest.mark.parametrize("given", [{}, {"prompt": "a", "messages": MESSAGES}])
def test_exactly_one_of_prompt_and_messages_is_taken(folder: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="one of prompt and messages"):
        made(folder).tokenize("two", **given)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["", "../two", "/etc", "a/../two", "two/", "a\0b", "a" * 10_000, None, 5, [], "org\\one"]
)
def test_bad_name_is_an_input_error_and_nothing_is_remembered(folder: Path, model: Any) -> None:
    tokenizers = made(folder)
    with pytest.raises(InputError, match="model"):
        tokenizers.encode(model, "a")
    assert not tokenizers.is_at_hand(model)
    assert tokenizers.statistics().load_failures == 0


def test_unknown_model_is_said_with_every_source_and_why_not(folder: Path) -> None:
    tokenizers = made(folder, pods={"other": "http://127.0.0.1:1"}, models={"alias": "org/none"})
    with pytest.raises(TokenizerError) as caught:
        tokenizers.get("alias")
    said = str(caught.value)
    assert all(f"{name}:" in said for name in ("models", "folders", "cache", "hub", "pods"))
    assert "'alias'" in said and "'org/none'" in said and "hub.allowed" in said


@pytest.mark.slow
def test_sources_are_tried_in_their_order(tmp_path: Path, folder: Path) -> None:
    snapshot = write_cached(tmp_path / "cache", "org/one")
    place = f"files:{folder / 'org' / 'one'}"
    assert made(folder).encode("org/one", "a").served_by == place
    assert made(folder, order=("cache", "folders")).encode("org/one", "a").served_by == f"files:{snapshot}"
    assert made(folder, order=("folders",)).encode("org/one", "a").served_by == place


def test_source_that_cannot_load_leaves_it_to_the_next(tmp_path: Path, folder: Path) -> None:
    snapshot = write_cached(tmp_path / "cache", "org/one")
    (folder / "org" / "one" / "tokenizer.json").write_text("{")
    assert made(folder).encode("org/one", "a").served_by == f"files:{snapshot}"


@pytest.mark.slow
def test_names_lead_to_folders_files_and_other_names(tmp_path: Path, folder: Path) -> None:
    (folder / "two" / "tokenizer.json").rename(folder / "two" / "other.json")
    tokenizers = made(
        folder,
        models={
            "/served/as/a/path": str(folder / "org" / "one"),
            "file": str(folder / "two" / "other.json"),
            "alias": "org/one",
            "missing": str(tmp_path / "missing"),
        },
    )
    served = {name: tokenizers.encode(name, "a").served_by for name in ("/served/as/a/path", "file", "alias")}
    assert served == {
        "/served/as/a/path": f"files:{folder / 'org' / 'one'}",
        "file": f"files:{folder / 'two' / 'other.json'}",
        "alias": f"files:{folder / 'org' / 'one'}",
    }
    with pytest.raises(TokenizerError, match="missing"):
        tokenizers.get("missing")
    assert {"alias", "file", "org/one"} <= set(tokenizers.models())


def test_unsupported_kind_is_said_where_nobody_else_serves(tmp_path: Path, folder: Path) -> None:
    (folder / "spm").mkdir()
    (folder / "spm" / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UnsupportedModelError, match=r"tokenizer\.model"):
        made(folder).get("spm")
    write_cached(tmp_path / "cache", "spm")
    assert "cache" in made(folder).encode("spm", "a").served_by


def test_mere_folder_of_models_is_no_model(folder: Path) -> None:
    with pytest.raises(TokenizerError, match="folders: no such model"):
        made(folder).get("org")


@pytest.mark.parametrize("text", ["a" * (100 << 20), "\ud800", None])
def test_bad_text_is_refused_and_counted(folder: Path, text: Any) -> None:
    tokenizers = made(folder)
    with pytest.raises(InputError):
        tokenizers.encode("two", text)
    with pytest.raises(InputError):
        tokenizers.encode_many("two", ["good", text])
    tokenizers.encode("two", "good")
    statistics = tokenizers.statistics()
    assert (statistics.requests, statistics.refused, statistics.failed) == (3, 2, 0)


def test_one_text_is_not_taken_for_many(folder: Path) -> None:
    with pytest.raises(InputError, match="texts"):
        made(folder).encode_many("two", "The dog")


def test_files_that_are_no_good_are_warned_of_where_another_source_serves(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_cached(tmp_path / "cache", "org/one")
    write_cached(tmp_path / "cache", "org/cached")
    made(folder).encode("org/cached", "a")
    assert not caplog.records
    (folder / "org" / "one" / "tokenizer.json").write_text("{")
    made(folder).encode("org/one", "a")
    assert [str(folder) in record.message for record in caplog.records] == [True]


def test_too_many_messages_are_refused(folder: Path) -> None:
    tokenizers = made(folder, limits=TokenizeLimits(messages_max=10))
    with pytest.raises(InputError, match="messages"):
        tokenizers.tokenize("two", messages=MESSAGES * 11)


def test_changed_files_are_loaded_anew(folder: Path) -> None:
    tokenizers = made(folder, look_s=0)
    before = tokenizers.encode("two", "a<|new|>").token_ids.tolist()
    small_tokenizer("<|new|>").save(str(folder / "two" / "tokenizer.json"))
    until(lambda: tokenizers.encode("two", "a<|new|>").token_ids.tolist() != before)
    assert (
        tokenizers.encode("two", "a<|new|>").token_ids.tolist()
        == small_tokenizer("<|new|>").encode("a<|new|>").ids
    )
    (folder / "two" / "chat_template.jinja").write_text("now " + TEMPLATE)
    until(lambda: tokenizers.render_chat("two", Chat(messages=MESSAGES)).startswith("now "))
    assert tokenizers.statistics().reloads >= 2


def test_branch_that_moves_in_the_cache_is_followed(tmp_path: Path) -> None:
    write_cached(tmp_path / "cache", "org/one", "aaaa")
    tokenizers = Tokenizers(TokenizeConfig(look_s=0))
    assert tokenizers.encode("org/one", "a").served_by.endswith("aaaa")
    write_cached(tmp_path / "cache", "org/one", "bbbb")
    until(lambda: tokenizers.encode("org/one", "a").served_by.endswith("bbbb"))


def test_broken_new_file_keeps_the_old_tokenizer_and_is_counted(folder: Path) -> None:
    tokenizers = made(folder, look_s=0.001)
    before = tokenizers.encode("two", "The dog").token_ids.tolist()
    path = folder / "two" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:1000])

    def is_counted() -> bool:
        assert tokenizers.encode("two", "The dog").token_ids.tolist() == before
        return tokenizers.statistics().reload_failures > 0

    until(is_counted)
    write_model(folder / "two", small_tokenizer("<|new|>"))
    until(
        lambda: (
            tokenizers.encode("two", "The dog").token_ids.tolist() == before and _has(tokenizers, "<|new|>")
        )
    )


def _has(tokenizers: Tokenizers, token: str) -> bool:
    return len(tokenizers.encode("two", token, add_special_tokens=False).token_ids) == 1


@pytest.mark.slow
def test_bound_on_loaded_tokenizers_holds(folder: Path) -> None:
    for number in range(4):
        write_model(folder / f"m{number}")
    tokenizers = made(folder, loaded_max=2)
    for number in (0, 1, 2, 3, 0):
        tokenizers.encode(f"m{number}", "a")
    statistics = tokenizers.statistics()
    assert len(statistics.loaded) == 2 and statistics.evicted == 3
    assert tokenizers.is_at_hand("m0") and not tokenizers.is_at_hand("m2")


def test_threads_share_one_load_and_get_the_same_ids(folder: Path) -> None:
    tokenizers = made(folder)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: tokenizers.tokenize("two", messages=MESSAGES), range(64)))
    assert len({tuple(answer.token_ids.tolist()) for answer in answers}) == 1
    statistics = tokenizers.statistics()
    assert (statistics.loads, statistics.requests) == (1, 64)
    assert statistics.tokens == 64 * len(answers[0].token_ids)


def test_pod_and_sidecar_that_are_away_are_said_in_time(folder: Path) -> None:
    tokenizers = made(
        folder,
        sidecar=SidecarConfig(address="127.0.0.1:1", timeout_s=1.0),
        pods={"podded": "http://127.0.0.1:1"},
        pod_timeout_s=1.0,
    )
    with pytest.raises(TokenizerError, match="sidecar"):
        tokenizers.encode("nowhere", "a")
    with pytest.raises(TokenizerError):
        tokenizers.encode("podded", "a")
    assert not tokenizers.is_at_hand("podded")
    assert tokenizers.encode("two", "a").served_by.startswith("files:")
    tokenizers.close()


def test_chat_that_files_do_not_suffice_for_is_passed_on_to_the_pod(folder: Path) -> None:
    (folder / "two" / "tokenizer_config.json").unlink()
    with ScriptedPod(lambda _: ids(7, 8, 9)) as pod:
        tokenizers = made(folder, pods={"two": pod.url})
        prompt = tokenizers.tokenize("two", messages=MESSAGES)
        assert (prompt.token_ids.tolist(), prompt.served_by) == ([7, 8, 9], f"pod:{pod.url}")
        assert tokenizers.encode("two", "a").served_by.startswith("files:")
        assert tokenizers.statistics().passed_on == 1
        tokenizers.close()
    with pytest.raises(UnsupportedModelError, match="template"):
        made(folder, pods={"one": pod.url}).tokenize("two", messages=MESSAGES)


@pytest.mark.slow
def test_closed_tokenizers_say_so(folder: Path) -> None:
    tokenizers = made(folder)
    tokenizers.encode("two", "a")
    tokenizers.close()
    tokenizers.close()
    with pytest.raises(TokenizerError, match="closed"):
        tokenizers.encode("two", "a")


@pytest.mark.slow
def test_request_template_is_taken_only_where_that_is_allowed(folder: Path) -> None:
    chat = Chat(messages=MESSAGES, chat_template="own")
    with pytest.raises(InputError, match="chat_template"):
        made(folder).encode_chat("two", chat)
    allowed = made(folder, request_templates=True)
    assert allowed.render_chat("two", chat) == "own"


@pytest.mark.slow
def test_template_of_the_folder_goes_before_that_of_the_configuration(folder: Path) -> None:
    (folder / "two" / "chat_template.jinja").write_text("from the file")
    assert CONFIG["chat_template"] != "from the file"
    assert made(folder).render_chat("two", Chat(messages=MESSAGES)) == "from the file"
