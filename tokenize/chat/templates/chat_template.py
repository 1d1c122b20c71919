"""One chat template, compiled: text out of variables, within bounds whatever the template does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any

from jinja2 import Template, meta, nodes
from jinja2.exceptions import TemplateError as JinjaError

from kvatlas.index.errors import TemplateError, quoted
from kvatlas.tokenize.chat.templates.bounded.calls import RefusedChatError, local_clock
from kvatlas.tokenize.chat.templates.budget import Budget, StoppedError
from kvatlas.tokenize.chat.templates.content_format import ContentFormat, content_format
from kvatlas.tokenize.chat.templates.environment import RenderContext, TemplateEnvironment, environment
from kvatlas.tokenize.chat.templates.syntax import check, put_ticks
from kvatlas.tokenize.config import TokenizeLimits

_PIECES = 256
_MESSAGE_MAX = 2048


class ChatTemplate:
    """A chat template of a model, or of a request. Any thread may call any method.

    `clock` is what `strftime_now` reads; tests give their own.
    Raises TemplateError when it does not parse, uses what chat templates may not (docs/tokenization.md), or
    is larger than `limits.template_bytes_max`.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str,
        limits: TokenizeLimits,
        clock: Callable[[], datetime] = local_clock,
    ) -> None:
        self.name = name
        self._source = source
        self._limits = limits
        self._clock = clock
        self._environment = environment()
        _check_size(source, name, limits)
        try:
            tree = self._environment.parse(source)
            check(tree)
            self.content_format: ContentFormat = content_format(tree)
            self.variables = _variables(tree)
            put_ticks(tree)
            self._template = _compile(self._environment, tree)
        except Exception as error:
            raise TemplateError(self._says(error, getattr(error, "lineno", None))) from None

    def mentions(self, word: str) -> bool:
        """Whether the source has this text, anywhere."""
        return word in self._source

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text for these variables: JSON values, which are not changed.

        Raises TemplateError with the template's own message where it calls `raise_exception`, and for any
        failure, and for the limit that stopped it.
        """
        budget = Budget(self._limits)
        try:
            context = self._template.new_context(dict(variables))
            assert isinstance(context, RenderContext)
            context.start(budget, self._clock)
            return self._collect(self._template.root_render_func(context), budget)
        except Exception as error:
            raise TemplateError(self._says(error, self._line_of(error.__traceback__))) from None

    def _collect(self, pieces: Iterator[str], budget: Budget) -> str:
        texts: list[str] = []
        n_chars = 0
        while some := list(islice(pieces, _PIECES)):
            n_chars += sum(map(len, some))
            budget.allow(n_chars)
            budget.look()
            texts += some
        text = "".join(texts)
        if not text.isascii() and 4 * n_chars > budget.text_max:
            budget.allow(len(text.encode("utf-8", "surrogatepass")))
        return text

    def _line_of(self, traceback: TracebackType | None) -> int | None:
        line = None
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<template>":
                line = self._template.get_corresponding_lineno(traceback.tb_lineno)
            traceback = traceback.tb_next
        return line

    def _says(self, error: BaseException, line: int | None) -> str:
        where = f"chat template {self.name}" + (f", line {line}" if line else "")
        if isinstance(error, RefusedChatError):
            return f"{where}: {quoted(error, _MESSAGE_MAX)}"
        if isinstance(error, StoppedError):
            return f"{where}: stopped: {error}"
        if isinstance(error, RecursionError):
            return f"{where}: nested too deeply"
        said = error.message or "" if isinstance(error, JinjaError) else f"{type(error).__name__}: {error}"
        return f"{where}: {quoted(said, _MESSAGE_MAX)}"


def _check_size(source: str, name: str, limits: TokenizeLimits) -> None:
    n_bytes = len(source) if source.isascii() else len(source.encode("utf-8", "surrogatepass"))
    if n_bytes > limits.template_bytes_max:
        raise TemplateError(
            f"chat template {name}: expected at most {limits.template_bytes_max} bytes "
            f"(limits.template_bytes_max), got {n_bytes}"
        )


def _variables(tree: nodes.Template) -> frozenset[str]:
    """Names that the template reads and does not set, as vLLM finds them.

    Functions of transformers' environment count as such: vLLM looks with an environment that lacks them.
    """
    names = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    added = names & {"raise_exception", "strftime_now"}
    return frozenset((meta.find_undeclared_variables(tree) | added) - {"lipsum"})


def _compile(environment: TemplateEnvironment, tree: nodes.Template) -> Template:
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None))
