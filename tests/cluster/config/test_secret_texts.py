"""Secrets: read from files and variables, never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.cluster.config.loading import load_config
from kvatlas.cluster.config.writing import difference, to_yaml
from kvatlas.index.errors import ConfigError

SECRET = "correct horse battery staple"


def loaded(value: object, environment: dict[str, str] | None = None) -> str | None:
    return load_config(None, environment or {}, atlas={"hash_seed": value}).atlas.hash_seed


def test_a_secret_comes_from_a_file_or_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "seed"
    file.write_text(f"{SECRET}\n", encoding="utf-8")
    assert loaded({"file": str(file)}) == SECRET
    assert loaded({"env": "SEED"}, {"SEED": SECRET}) == SECRET
    assert loaded(SECRET) == SECRET
    assert loaded(None) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"file": "missing"}, "expected a file that can be read"),
        ({"env": "SEED"}, "expected a text in the environment variable SEED, got none"),
        ({"vault": SECRET}, "expected a text, {file: PATH} or {env: NAME}, got ['vault']"),
        ({"file": "empty"}, "expected a text in"),
        ({"file": "long"}, "expected at most 4096 bytes in"),
        ({"file": "binary"}, "expected UTF-8 in"),
        (["a", SECRET], "expected str | null, got (secret)"),
    ],
)
def test_a_secret_that_cannot_be_had_is_refused_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n", encoding="utf-8")
    Path("long").write_text(SECRET * 1000, encoding="utf-8")
    Path("binary").write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(ConfigError) as caught:
        loaded(value)
    assert str(caught.value).startswith(f"$.atlas.hash_seed: {said}")
    assert SECRET not in str(caught.value)


def test_no_secret_is_shown_anywhere() -> None:
    curve = {"server_key": "S" * 40, "secret_key": "s" * 40, "public_key": "p" * 40}
    source = {"endpoint": "tcp://10.0.0.1:1", "curve": curve}
    config = load_config(
        None,
        {"TOKEN": SECRET},
        atlas__hash_seed=SECRET,
        discovery__watches=[
            {"kind": "http", "token": {"env": "TOKEN"}},
            {"kind": "static", "pods": [{"pod": "a", "sources": [source]}]},
        ],
    )
    other = load_config(None, {}, atlas__hash_seed="another one")
    said = [
        to_yaml(config),
        repr(config),
        str(config),
        *difference(config, other),
        *difference(other, config),
    ]
    for text in said:
        assert SECRET not in text
        assert "s" * 40 not in text
    assert "$.atlas.hash_seed: another secret" in said
    assert "hash_seed: (secret)" in said[0]


def test_a_secret_in_the_wrong_place_is_not_shown_with_the_value() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, atlas={"agreement": {"token": SECRET}, "shards": 1})
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_config(None, {}, shards={"count": {"hash_seed": SECRET}})
    assert SECRET not in str(caught.value)
