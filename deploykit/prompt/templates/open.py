"""From what was decided to what renders: a Jinja template in its sandbox, or a class of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from deploykit.errors import ConfigError
from deploykit.prompt.errors import PromptError
from deploykit.prompt.templates.registry import load_python, registered

if TYPE_CHECKING:
    from deploykit.prompt.shield import Piece

MAX_OUTPUT = 4 << 20  # characters of a rendered prompt


class Template(Protocol):
    """What the server needs of a chat template."""

    variables: frozenset[str]  # that a request's chat_template_kwargs may set
    source: str
    stop_words: tuple[str, ...]

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text. Raises PromptError."""

    def render_pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[Piece]:
        """The same, cut where a message names a control token: for `Tokenizer.encode_pieces`."""


def open_template(
    *,
    source: str | None,
    python: str | None = None,
    name: str = "",
    stop_words: Sequence[str] = (),
    bos_token: str | None = None,
    eos_token: str | None = None,
    add_bos: bool = False,
    special_tokens: Sequence[str] = (),
) -> Template | None:
    """The template of a `Resolved`; None where there is none and chat isn't served.

    `python` is a file or module that is run now, unless this process has `name` registered already; `name` is the
    template that it registers ("" = its only one). Raises ConfigError.
    """
    from deploykit.prompt.template import ChatTemplate

    if python is not None:
        found = [name] if name in registered() else load_python(python)
        if name and name not in found:
            raise ConfigError(
                f"{python} registers no chat template {name!r}",
                where="chat.template",
                fix=f"it has {', '.join(found)}",
            )
        if not name and len(found) > 1:
            raise ConfigError(
                f"{python} registers several chat templates",
                where="chat.template",
                fix=f"name one of them: {', '.join(found)}",
            )
        return PythonTemplate(
            registered()[name or found[0]],
            stop_words=stop_words,
            bos_token=bos_token if add_bos else None,
            special_tokens=special_tokens,
        )
    if source is None:
        return None
    return ChatTemplate(
        source,
        bos_token=bos_token,
        eos_token=eos_token,
        add_bos=add_bos,
        special_tokens=special_tokens,
        stop_words=stop_words,
    )


class PythonTemplate:
    """A registered class as a template: `get_prompt` for a single user message, else `messages2prompt`.

    BOS is put first where plain text would start with it and the class didn't write it.
    """

    def __init__(
        self,
        cls: type,
        *,
        stop_words: Sequence[str] = (),
        bos_token: str | None = None,
        special_tokens: Sequence[str] = (),
    ) -> None:
        """Raises ConfigError where the class can't be made without arguments."""
        from deploykit.prompt.shield import special_pattern

        try:
            self._template: Any = cls()
            own = tuple(getattr(self._template, "stop_words", None) or ())
        except Exception as error:
            raise ConfigError(
                f"the chat template class {cls.__name__} can't be made",
                why=f"{type(error).__name__}: {error}",
                fix="it is made without arguments: give them defaults",
            ) from None
        if not all(isinstance(word, str) and word for word in own):
            raise ConfigError(f"{cls.__name__}.stop_words must be texts that aren't empty")
        self.variables: frozenset[str] = frozenset()
        self.source = f"{cls.__module__}.{cls.__qualname__}"
        self.stop_words = tuple(dict.fromkeys((*stop_words, *own)))
        self._bos = bos_token
        self._pattern = special_pattern(special_tokens)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        if not add_generation_prompt or any(variables.values()):
            asked = ", ".join(k for k, v in variables.items() if v) or "add_generation_prompt: false"
            raise PromptError("template_failed", f"This model's chat template, a class, can't take {asked}.")
        try:
            if len(messages) == 1 and messages[0].get("role") == "user":
                text = self._template.get_prompt(messages[0]["content"], True)
            else:
                text = self._template.messages2prompt([dict(message) for message in messages])
        except Exception as error:  # whatever the user's code does, it fails this one request
            raise PromptError(
                "template_failed", f"The chat template can't render these messages ({type(error).__name__})."
            ) from error
        if not isinstance(text, str):
            raise PromptError("template_failed", "The chat template's class gave no text.")
        if len(text) > MAX_OUTPUT:
            raise PromptError("template_limit", "The chat template built a prompt larger than it may.")
        return self._bos + text if self._bos and not text.startswith(self._bos) else text

    def render_pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[Piece]:
        from deploykit.prompt.shield import Shield
        from deploykit.prompt.template import cover

        shield = Shield(self._pattern)
        covered = [{key: cover(value, shield) for key, value in message.items()} for message in messages]
        return shield.pieces(self.render(covered, add_generation_prompt=add_generation_prompt, **variables))
