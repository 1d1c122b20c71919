"""Certificates for servers of tests, made by the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple


class Certificates(NamedTuple):
    """Files in PEM: an authority, and a server's certificate of it for 127.0.0.1 and localhost."""

    authority: Path
    certificate: Path
    key: Path


def has_openssl() -> bool:
    return shutil.which("openssl") is not None


def make_certificates(folder: Path, name: str = "server") -> Certificates:
    """An authority of its own and one certificate, good for a day. REQUIRES: has_openssl()."""
    authority, authority_key = folder / f"{name}-ca.crt", folder / f"{name}-ca.key"
    certificate, key, request = (folder / f"{name}.{ending}" for ending in ("crt", "key", "csr"))
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(
        *("req", "-x509", *curve, "-days", "1", "-subj", f"/CN=authority of {name}"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        *("-keyout", authority_key, "-out", authority),
    )
    _openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    _openssl(
        *("x509", "-req", "-in", request, "-days", "1", "-extfile", extensions, "-CA", authority),
        *("-CAkey", authority_key, "-CAcreateserial", "-out", certificate),
    )
    return Certificates(authority, certificate, key)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"
