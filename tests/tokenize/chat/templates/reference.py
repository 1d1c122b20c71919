"""The environment that transformers builds, from jinja2 alone, and templates on it: slow, plain, right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOON = datetime(2026, 3, 4, 12, 0, 5)


class PlainGeneration(Extension):
    """`{% generation %}`, as a call block."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("call_it", lineno=lineno)
        return nodes.CallBlock(call, [], [], body, lineno=lineno)

    def call_it(self, caller: Any) -> Any:
        return caller()


def raise_exception(message: str) -> None:
    raise TemplateError(message)


def tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def reference_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[PlainGeneration, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: NOON.strftime(format)
    return environment


REFERENCE = reference_environment()


def reference_render(source: str, variables: Mapping[str, Any]) -> str | None:
    """The text, or None where the template fails, for whatever reason."""
    try:
        return REFERENCE.from_string(source).render(dict(variables))
    except Exception:
        return None
