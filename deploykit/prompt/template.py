"""Chat templates: from messages to the text a model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta

from deploykit.errors import ConfigError
from deploykit.prompt.amplify import RenderLimit
from deploykit.prompt.errors import PromptError
from deploykit.prompt.sandbox import MAX_SECONDS, TemplateEnvironment, raised_message, render
from deploykit.prompt.shield import Piece, Shield, special_pattern

Message = Mapping[str, Any]  # role and content (a string), and what else the template knows

MAX_SOURCE = (
    128 << 10
)  # characters: known templates have a tenth of it, and compiling this many takes seconds

_GIVEN = {
    "messages",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "add_bos_token",
    "tools",
    "documents",
}


class ChatTemplate:
    """A Jinja chat template, compiled once; thread-safe.

    Rendering belongs into a worker thread: see `sandbox` for what is bounded and how.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        add_bos: bool = False,
        special_tokens: Sequence[str] = (),
        stop_words: Sequence[str] = (),
        where: str | None = None,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        """`add_bos`: plain text starts with BOS here, and built-in templates do so too; `stop_words` end an answer.

        Raises ConfigError, with its line, where `source` is no template.
        """
        if len(source) > MAX_SOURCE:
            raise ConfigError(
                "the chat template is too large",
                where=where or "chat template",
                why=f"it has {len(source)} characters, and {MAX_SOURCE} is the most",
                fix="name a built-in (`deploykit templates list`), or a shorter file",
            )
        self._environment = TemplateEnvironment()
        try:
            self._template = self._environment.from_string(source)
            undeclared = meta.find_undeclared_variables(self._environment.parse(source))
        except TemplateSyntaxError as error:
            raise ConfigError(
                "the chat template has a syntax error",
                where=f"{where or 'chat template'}, line {error.lineno}",
                why=error.message,
                fix="correct the template, or use `chat.template: auto` for the checkpoint's own",
            ) from None
        except (RecursionError, SyntaxError, MemoryError) as error:  # nested deeper than a compiler goes
            raise ConfigError(
                "the chat template can't be compiled", where=where or "chat template", why=str(error)
            ) from None
        self.variables = frozenset(undeclared) - _GIVEN - set(self._environment.globals)
        self.source = source
        self.stop_words = tuple(stop_words)
        self._tokens = {
            "bos_token": bos_token or "",
            "eos_token": eos_token or "",
            "add_bos_token": add_bos,
        }
        self._pattern = special_pattern(special_tokens)
        self._max_seconds = max_seconds

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt's text. Raises PromptError where the template refuses or can't render the messages."""
        given = {
            **self._tokens,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            **variables,
        }
        try:
            return render(self._environment, lambda: self._template.generate(**given), self._max_seconds)
        except RenderLimit as error:
            raise PromptError(
                "template_limit", f"The chat template was stopped on these messages: {error}."
            ) from None
        except TemplateError as error:
            if (message := raised_message(error)) is not None:
                raise PromptError("template_rejected", message[:500]) from None
            raise PromptError("template_failed", _failure(error)) from None
        except Exception as error:  # whatever a template does to its values, it fails this one request
            raise PromptError("template_failed", _failure(error)) from None

    def render_pieces(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> list[Piece]:
        """The prompt cut where a message names a control token: for `Tokenizer.encode_pieces`. Raises PromptError."""
        shield = Shield(self._pattern)
        covered = [{key: cover(value, shield) for key, value in message.items()} for message in messages]
        return shield.pieces(self.render(covered, add_generation_prompt=add_generation_prompt, **variables))


def cover(value: Any, shield: Shield) -> Any:
    """Every string inside a message's value, however deep, without control tokens' names."""
    if isinstance(value, str):
        return shield.cover(value)
    if isinstance(value, Mapping):
        return {key: cover(item, shield) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cover(item, shield) for item in value]
    return value


def _failure(error: Exception) -> str:
    return f"The chat template can't render these messages ({type(error).__name__})."
