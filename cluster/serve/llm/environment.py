"""The environment variables without which ray.serve.llm routes at random and hardly says so."""

from __future__ import annotations

import os
import sys

from kvatlas.index.errors import ConfigError

VARIABLES = {
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",  # the router sees requests before a replica does
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # direct streaming needs it
    "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY": "1",  # the router sees what is asked
}
"""What ray.serve.llm must find, in the driver and on every node, before Ray is imported there."""

_READ_BY = ("ray.serve._private.constants", "ray.llm._internal.serve.constants")
"""Modules that read them once, when they are imported."""


def prepare_environment() -> None:
    """Set the variables that ray.serve.llm needs; call it before anything imports Ray Serve.

    A Ray that this process starts inherits them; on nodes that run already they must have been set before
    `ray start`. Raises ConfigError, with their names, where it is too late.
    """
    missing = missing_variables()
    late = [module for module in _READ_BY if module in sys.modules]
    if missing and late:
        raise ConfigError(
            f"environment: expected {_assignments(missing)} before {late[0]} was imported, got it imported "
            "already: call prepare_environment() first, or set them outside"
        )
    os.environ.update(missing)


def check_environment() -> None:
    """Raises ConfigError, with their names, where variables are missing in this process."""
    missing = missing_variables()
    if missing:
        raise ConfigError(
            f"environment: expected {_assignments(missing)} in the driver and on every node before Ray "
            "starts, got them unset: KvatlasRouter would never see a request "
            "(kvatlas.cluster.serve.llm.environment.prepare_environment() sets them)"
        )


def missing_variables() -> dict[str, str]:
    """Those that are not set as they must be, with the value that they want."""
    return {name: value for name, value in VARIABLES.items() if os.environ.get(name) != value}


def _assignments(variables: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in variables.items())
