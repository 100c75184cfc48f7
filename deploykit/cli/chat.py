"""`deploykit chat`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploykit.cli._options import Profiles
from deploykit.cli._output import stage_display
from deploykit.errors import ConfigError


def chat(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="A recipe, the name of a shipped one, a URL, a model folder, a GGUF file, a hub id, or the name of a "
            "running deployment. "
            "Default: the one that runs, else the recipe smollm2-135m.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="Ask this, print the answer and end.", show_default=False),
    ] = None,
    prompt_option: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", metavar="TEXT", help="The same as PROMPT, without a TARGET before it."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="K=V", help="A sampling parameter, such as temperature=0.2; repeatable."
        ),
    ] = None,
    profiles: Profiles = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="Which model, where several are served."),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object with the answer, usage and timing on stdout.")
    ] = False,
    stats: Annotated[
        bool | None,
        typer.Option("--stats/--no-stats", help="Figures after an answer. Default: at the prompt only."),
    ] = None,
) -> int:
    """Talk to a model: at a prompt, or one question and one answer.

    Text piped into stdin is the question, or follows PROMPT. A server that runs is used; else a private one is
    started and ends with the chat. DEPLOYKIT_API_KEY is sent as the key where it is set.
    """
    from deploykit.chat.run import run_chat

    if target is not None and prompt is None and _is_question(target):
        target, prompt = None, target
    if prompt is not None and prompt_option is not None:
        raise ConfigError("the prompt is given twice", fix="drop one of them")
    display = stage_display(sys.stderr)
    with contextlib.closing(display):
        return run_chat(
            target,
            prompt_option if prompt is None else prompt,
            model=model,
            system=system,
            sets=set_ or (),
            profiles=profiles or (),
            as_json=json_,
            stats=stats,
            report=display.report,
        )


def _is_question(text: str) -> bool:
    """Whether the only argument is a sentence and not the name of something."""
    return any(c.isspace() for c in text.strip()) and "://" not in text and not Path(text).exists()
