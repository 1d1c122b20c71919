"""The jinja environment of chat templates: as transformers builds it, with what cannot be bounded left out.

`trim_blocks`, `lstrip_blocks`, `break` and `continue`, `{% generation %}` as a plain block, `tojson` as
`json.dumps`, `raise_exception`, `strftime_now`; autoescape is off.
Source: transformers' chat_template_utils.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.lexer import Token
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from kvatlas.tokenize.chat.templates.bounded.calls import GLOBALS, call, invoke
from kvatlas.tokenize.chat.templates.bounded.filters import FILTERS
from kvatlas.tokenize.chat.templates.bounded.methods import DICT_NAMES, LOOP_NAMES, is_allowed
from kvatlas.tokenize.chat.templates.bounded.operations import Operators
from kvatlas.tokenize.chat.templates.bounded.predicates import TESTS
from kvatlas.tokenize.chat.templates.budget import Budget, hashed
from kvatlas.tokenize.chat.templates.generator import BoundedCodeGenerator

TOKENS_MAX = 20_000
"""Of a template's source: the largest known has some 5 000. So many compile in about a second and 100 MB."""


class RenderContext(Context):
    """The variables of one rendering, and what it may still use. `start` comes before anything else."""

    environment: TemplateEnvironment  # pyright: ignore[reportIncompatibleVariableOverride]
    budget: Budget
    operators: Operators
    clock: Callable[[], datetime]
    invoke = invoke
    call = call
    hashed = staticmethod(hashed)

    def start(self, budget: Budget, clock: Callable[[], datetime]) -> None:
        self.budget = budget
        self.operators = Operators(budget)
        self.clock = clock


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: its text, in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012  (as jinja's base class has it)

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)

    def filter_stream(self, stream: Any) -> Iterable[Token]:
        return _counted(stream)


def _counted(stream: Iterable[Token]) -> Iterator[Token]:
    for count, token in enumerate(stream):
        if count >= TOKENS_MAX:
            raise TemplateSyntaxError(f"more than {TOKENS_MAX} tokens", token.lineno)
        yield token


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Holds nothing of any template: shared by threads."""

    code_generator_class = BoundedCodeGenerator
    context_class = RenderContext
    # The operators are the context's (generator.py). This keeps jinja from working them out beforehand.
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            cache_size=0,
            extensions=[_Generation, LoopControlExtension],
        )
        self.globals = dict(GLOBALS)
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """obj.attribute: the attribute before the item."""
        kind = type(obj)
        if kind is dict and attribute not in DICT_NAMES:
            return obj[attribute] if attribute in obj else Undefined(obj=obj, name=attribute)
        if kind is LoopContext and attribute in LOOP_NAMES:
            return getattr(obj, attribute)
        try:
            value = getattr(obj, attribute)
        except AttributeError:
            try:
                return obj[attribute]
            except (TypeError, LookupError):
                return self.undefined(obj=obj, name=attribute)
        return self._checked(obj, attribute, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """obj[argument]: the item before the attribute."""
        hashed(argument)
        try:
            return obj[argument]
        except (TypeError, LookupError):
            pass
        if type(argument) is str:
            try:
                value = getattr(obj, argument)
            except AttributeError:
                pass
            else:
                return self._checked(obj, argument, value)
        # The message of an undefined value shows its name: not that of a list that has no end.
        name: Any = argument if isinstance(argument, (str, int)) else f"of type {type(argument).__name__}"
        return self.undefined(obj=obj, name=name)

    def _checked(self, obj: Any, name: str, value: Any) -> Any:
        if type(obj) is Namespace:
            return self.unsafe_undefined(obj, name) if name.startswith("_") else value
        return value if is_allowed(obj, name) else self.unsafe_undefined(obj, name)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return is_allowed(obj, attr)

    def call(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Never reached: generated code calls through the context, which is bounded (bounded/calls.py)."""
        raise AssertionError("a call that is not bounded")


@lru_cache(maxsize=1)
def environment() -> TemplateEnvironment:
    """The one of this process."""
    return TemplateEnvironment()
