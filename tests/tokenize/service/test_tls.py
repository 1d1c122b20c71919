"""The service and its client over TLS, with certificates of both sides."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kvatlas.index.errors import ConfigError, TokenizerError
from kvatlas.tokenize.config import SidecarConfig
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.server import TokenizationServer
from kvatlas.tokenize.service.sidecar import SidecarSource
from kvatlas.tokenize.tokenizers import Tokenizers


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that is its own authority: key.pem and certificate.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("pem")
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = f"-keyout {folder}/key.pem -out {folder}/certificate.pem"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(["openssl", *request.split(), *files.split(), *names], check=True, capture_output=True)
    return folder


def test_only_clients_with_a_certificate_are_answered(tokenizers: Tokenizers, pem: Path) -> None:
    key, certificate = str(pem / "key.pem"), str(pem / "certificate.pem")
    config = ServiceConfig(
        listen=(":0",),
        tls_key_file=key,
        tls_certificate_file=certificate,
        tls_client_ca_file=certificate,
    )
    with TokenizationServer(tokenizers, config) as server:
        (address,) = server.addresses
        trusted = SidecarConfig(
            address=address, tls_ca_file=certificate, tls_certificate_file=certificate, tls_key_file=key
        )
        tokenizer = SidecarSource(trusted).find("small")
        assert tokenizer is not None
        assert tokenizer.encode("a").token_ids.tolist() == tokenizers.encode("small", "a").token_ids.tolist()
        tokenizer.close()
        for untrusted in (
            SidecarConfig(address=address),
            SidecarConfig(address=address, tls_ca_file=certificate),
        ):
            with pytest.raises(TokenizerError, match="InitializeTokenizer: expected an answer"):
                SidecarSource(untrusted).find("small")


def test_file_that_is_not_there_is_a_config_error(tokenizers: Tokenizers, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    config = ServiceConfig(listen=(":0",), tls_key_file=missing, tls_certificate_file=missing)
    with pytest.raises(ConfigError, match=r"none.pem: expected a PEM file"):
        TokenizationServer(tokenizers, config).start()
    with pytest.raises(ConfigError, match="expected a PEM file"):
        SidecarSource(SidecarConfig(address="localhost:1", tls_ca_file=missing)).find("small")


def test_file_that_is_no_certificate_is_a_config_error(tokenizers: Tokenizers, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("bad")
    bad = str(tmp_path / "bad.pem")
    config = ServiceConfig(listen=(":0",), tls_key_file=bad, tls_certificate_file=bad)
    with pytest.raises(ConfigError, match="expected to listen there"):
        TokenizationServer(tokenizers, config).start()
