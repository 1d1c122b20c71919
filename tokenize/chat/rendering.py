"""From a chat to the text that its model server would tokenize."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from kvatlas.index.errors import InputError, TemplateError, UnsupportedModelError
from kvatlas.tokenize.chat.arguments import template_arguments, visible
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.chat.continuing import cut_at_mark, marked
from kvatlas.tokenize.chat.messages.plain_values import PlainValues
from kvatlas.tokenize.chat.messages.preparing import Prepared, prepare_messages, without_developer
from kvatlas.tokenize.chat.renderers import brings_own_template, foreign_renderer
from kvatlas.tokenize.chat.template_files import TemplateFiles
from kvatlas.tokenize.config import TokenizeLimits

if TYPE_CHECKING:
    from kvatlas.tokenize.chat.templates.chat_template import ChatTemplate

_BROUGHT_MAX = 16
"""Templates of requests that are kept compiled for one model; its own stay."""

_FLAGS = ("add_generation_prompt", "continue_final_message", "add_special_tokens")
_ASK_ITS_POD = "its pod can be asked (tokenize.pods)"


class ChatRenderer:
    """Renders the chats of one model as vLLM does. Any thread may call any method.

    `request_templates`: whether a chat may bring a template of its own; else that is an InputError.
    """

    def __init__(
        self, files: TemplateFiles, *, limits: TokenizeLimits, request_templates: bool, model: str
    ) -> None:
        self._files = files
        self._limits = limits
        self._request_templates = request_templates
        self._model = model
        self._foreign = foreign_renderer(files.model_type, files.architectures, files.file_names)
        self._own: dict[str, ChatTemplate] = {}
        self._brought: OrderedDict[str, ChatTemplate] = OrderedDict()
        self._n_dropped = 0
        self._lock = threading.Lock()

    def render(self, chat: Chat) -> str:
        """The text of a chat.

        Raises UnsupportedModelError where the model's chats are not rendered by a template that is here,
        InputError for a chat that no server would take, TemplateError where the template refuses it or is
        stopped.
        """
        if self._foreign is not None:
            raise UnsupportedModelError(
                f"model {self._model!r}: expected chats that a template renders, but its server has the "
                f"renderer {self._foreign!r} for them; {_ASK_ITS_POD}"
            )
        self._check(chat)
        values = PlainValues(self._limits.depth_max)
        arguments = template_arguments(chat, values)
        wanted = arguments.get("chat_template")
        self._check_brought(chat.chat_template, wanted)
        template = self._template(chat.chat_template or None, arguments)
        prepared = prepare_messages(chat.messages, template.content_format, values)
        if prepared.n_media or chat.media:
            self._check_media(prepared, chat, template)
        if not chat.chat_template and wanted is not None:
            template = self._template(wanted, arguments)
        return self._rendered(chat, template, prepared, arguments)

    def statistics(self) -> dict[str, int]:
        """`templates` compiled, and `templates_dropped` for newer ones that requests have brought."""
        return {
            "templates": len(self._own) + len(self._brought),
            "templates_dropped": self._n_dropped,
        }

    def _rendered(
        self, chat: Chat, template: ChatTemplate, prepared: Prepared, arguments: dict[str, Any]
    ) -> str:
        messages, text = prepared.messages, None
        if prepared.has_developer and not (
            template.mentions('"developer"') or template.mentions("'developer'")
        ):
            messages = without_developer(messages)
        if chat.continue_final_message:
            if not template.mentions("content"):
                raise InputError(
                    "$.continue_final_message: expected a template that writes contents, got none"
                )
            messages, text = marked(messages)
        rendered = template.render(
            {
                **self._files.special_tokens,
                "tools": None,
                "documents": None,
                **visible(arguments, template.variables),
                "messages": messages,
                "add_generation_prompt": chat.add_generation_prompt,
            }
        )
        return rendered if text is None else cut_at_mark(rendered, text)

    def _check(self, chat: Chat) -> None:
        messages = chat.messages
        if not isinstance(messages, (list, tuple)):
            raise InputError(f"$.messages: expected a list, got {type(messages).__name__}")
        if not 0 < len(messages) <= self._limits.messages_max:
            raise InputError(f"$.messages: expected 1 to {self._limits.messages_max}, got {len(messages)}")
        for name in _FLAGS:
            if type(getattr(chat, name)) is not bool:
                raise InputError(
                    f"$.{name}: expected true or false, got {type(getattr(chat, name)).__name__}"
                )
        if chat.continue_final_message and chat.add_generation_prompt:
            raise InputError(
                "$.continue_final_message: expected add_generation_prompt to be false, got true, its default"
            )

    def _check_brought(self, *templates: Any) -> None:
        for template in templates:
            if template is None:
                continue
            if not self._request_templates:
                raise InputError(
                    "$.chat_template: expected none, got one: templates of requests are not allowed "
                    "(tokenize.request_templates)"
                )
            if not isinstance(template, str):
                raise InputError(f"$.chat_template: expected a string, got {type(template).__name__}")

    def _check_media(self, prepared: Prepared, chat: Chat, template: ChatTemplate) -> None:
        n_media = prepared.n_media
        is_known = isinstance(chat.media, (list, tuple)) and all(
            isinstance(item, Media) and isinstance(item.identifier, str) for item in chat.media
        )
        if not is_known:
            raise InputError("media: expected a list of Media, each with a string as its identifier")
        if n_media and (template.content_format == "string" or not self._files.placeholder_ids):
            raise UnsupportedModelError(
                f"model {self._model!r}: expected text alone, got {n_media} images, videos or audios: how "
                "its server places them is not known here"
            )
        if n_media != len(chat.media):
            raise InputError(
                f"media: expected identifier and number of tokens of {n_media} images, videos or audios, got "
                f"{len(chat.media)}: only a server that has processed them knows"
            )

    def _template(self, wanted: str | None, arguments: dict[str, Any]) -> ChatTemplate:
        source = self._files.source(wanted, has_tools="tools" in arguments)
        if source is None:
            if brings_own_template(self._files.model_type):
                raise UnsupportedModelError(
                    f"model {self._model!r}: expected a chat template in its files, got none: its server "
                    f"brings one for models of type {self._files.model_type!r}; {_ASK_ITS_POD}"
                )
            raise UnsupportedModelError(
                f"model {self._model!r}: expected a chat template in its files, got none; {_ASK_ITS_POD}"
            )
        template = self._own.get(source) or self._brought.get(source)
        return template if template is not None else self._compile(source, is_own=wanted != source)

    def _compile(self, source: str, *, is_own: bool) -> ChatTemplate:
        from kvatlas.tokenize.chat.templates.chat_template import ChatTemplate

        name = self._model if is_own else f"{self._model} ($.chat_template)"
        n_bytes, n_bytes_max = len(source.encode("utf-8", "surrogatepass")), self._limits.template_bytes_max
        if n_bytes > n_bytes_max:
            raise TemplateError(
                f"{name}: expected a chat template of at most {n_bytes_max} bytes, got {n_bytes}"
            )
        template = ChatTemplate(source, name=name, limits=self._limits)
        if is_own:
            self._own[source] = template
            return template
        with self._lock:
            self._brought[source] = template
            while len(self._brought) > _BROUGHT_MAX:
                self._brought.popitem(last=False)
                self._n_dropped += 1
        return template
