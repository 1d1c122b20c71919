"""Files of a tokenizer that are torn, foreign, huge or change while in use: one error with the path, or the
old tokenizer goes on."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvatlas.index.errors import TokenizerError
from kvatlas.tokenize.chat.chat import Chat
from tests.tokenize.bad_input.victims import TEXT, USER, plain_ids, refusal, victims, write_victims
from tests.tokenize.loading.model_files import CONFIG, small_tokenizer, write_model
from tests.tokenize.test_tokenizers import until

pytestmark = pytest.mark.timeout(120)
GOOD = json.loads(small_tokenizer().to_str())
WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**64,
    1e300,
    "",
    "x",
    [],
    [None],
    [["a"]],
    {},
    {"type": "x"},
    {"type": 5},
)
COMPONENTS = (
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "model",
)
HOSTILE_PARTS: dict[str, dict[str, Any]] = {
    "a map that promises more than it has": {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    },
    "such a map in a sequence": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Precompiled", "precompiled_charsmap": "/////3w="}],
        }
    },
    "a map that is no base64": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "a"}},
    "a pattern that does not parse": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    },
    "an id beyond 32 bits": {"added_tokens": [{**GOOD["added_tokens"][0], "id": 2**32}]},
    "an added token of no text": {"added_tokens": [{**GOOD["added_tokens"][0], "content": 5}]},
    "merges of nothing": {"model": {**GOOD["model"], "merges": [["none", "such"]]}},
    "a vocabulary of numbers": {"model": {**GOOD["model"], "vocab": {"a": "b"}}},
}


def write_bad(folder: Path, definition: object) -> None:
    write_model(folder / "bad")
    (folder / "bad" / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_victims(tmp_path / "models")


@pytest.mark.slow
@pytest.mark.parametrize("component", COMPONENTS)
def test_component_of_a_wrong_type_loads_or_is_one_error(folder: Path, component: str) -> None:
    for class_name in ("PreTrainedTokenizerFast", "Qwen2Tokenizer"):
        for wrong in WRONG:
            write_bad(folder, {**GOOD, component: wrong})
            config = {**CONFIG, "tokenizer_class": class_name}
            (folder / "bad" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
            tokenizers = victims(folder)
            try:
                ids = tokenizers.encode("bad", TEXT).token_ids
            except TokenizerError:
                error = refusal(tokenizers, lambda: tokenizers.encode("bad", TEXT))  # noqa: B023
                assert str(folder / "bad") in str(error)
            else:
                assert ids.dtype == "uint32"
            tokenizers.close()


@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_hostile_component_is_one_error_that_names_the_file(folder: Path, name: str) -> None:
    write_bad(folder, {**GOOD, **HOSTILE_PARTS[name]})
    tokenizers = victims(folder)
    error = refusal(tokenizers, lambda: tokenizers.encode("bad", TEXT))
    assert str(folder / "bad" / "tokenizer.json") in str(error)
    assert tokenizers.statistics().load_failures == 1
    tokenizers.close()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _grow(path: Path) -> None:
    os.truncate(path, 20 << 30)  # a hole: it takes no disk


def _bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" * 1000)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _deep(path: Path) -> None:
    path.write_text("[" * 1_000_000, encoding="utf-8")


def _list(path: Path) -> None:
    path.write_text("[1]", encoding="utf-8")


SPOILERS: list[Callable[[Path], None]] = [
    _truncate,
    _bytes,
    _folder,
    _fifo,
    _loop,
    _device,
    _deep,
    _list,
    pytest.param(_grow, marks=pytest.mark.slow),  # type: ignore[list-item]
]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_spoiled_file_is_one_error_and_the_old_one_goes_on(
    folder: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    old = victims(folder, look_s=0.001)
    chat = Chat(messages=[USER])
    expected = old.encode_chat("curious", chat).token_ids.tolist()
    spoil(folder / "curious" / name)
    # A link to nothing is no file: what is left without a configuration is a tokenizer all the same.
    if not (name == "tokenizer_config.json" and spoil is _loop):
        new = victims(folder)
        error = refusal(new, lambda: new.encode("curious", TEXT))
        assert str(folder / "curious") in str(error) or "curious" in str(error)
        new.close()

        def is_noticed() -> bool:
            assert old.encode_chat("curious", chat).token_ids.tolist() == expected
            return old.statistics().reload_failures > 0

        until(is_noticed)
        assert old.encode("curious", TEXT).token_ids.tolist() == plain_ids(TEXT, True)
    old.close()


@pytest.mark.slow
def test_files_that_come_and_go_while_in_use_give_ids_of_the_old_or_the_new(folder: Path) -> None:
    """A writer that tears files, removes the folder and puts another tokenizer there; readers meanwhile."""
    tokenizers = victims(folder, look_s=0.0)
    text = "a<|new|>b"
    old = small_tokenizer().encode(text).ids
    new = small_tokenizer("<|new|>").encode(text).ids
    assert tokenizers.encode("good", text).token_ids.tolist() == old
    seen: set[tuple[int, ...]] = set()
    ended = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not ended.is_set():
                seen.add(tuple(tokenizers.encode("good", text).token_ids.tolist()))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(5):
            _truncate(folder / "good" / "tokenizer.json")
            until(lambda: tokenizers.statistics().reload_failures > 0)
            shutil.rmtree(folder / "good")
            before = tokenizers.statistics().reloads
            write_model(folder / "good", small_tokenizer("<|new|>"))
            until(lambda: tokenizers.statistics().reloads > before or bool(failures))  # noqa: B023
    finally:
        ended.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert seen <= {tuple(old), tuple(new)}
    assert tokenizers.encode("good", text).token_ids.tolist() == new
    tokenizers.close()
