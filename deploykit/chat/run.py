"""`deploykit chat`: find or start a server, then answer one question or open the prompt."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from deploykit.chat import oneshot, params
from deploykit.chat.client import Client, base_url
from deploykit.chat.session import open_session
from deploykit.chat.target import Attach, choose
from deploykit.deployment.stage import Report, ignore
from deploykit.deployment.target import load
from deploykit.errors import ConfigError, DeploykitError
from deploykit.supervise import state
from deploykit.supervise.launch import launch

START_TIMEOUT = 900.0  # seconds that a deployment which somebody else started may take to get ready


def run_chat(
    target: str | None,
    prompt: str | None,
    *,
    model: str | None = None,
    system: str | None = None,
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    as_json: bool = False,
    stats: bool | None = None,
    report: Report = ignore,
) -> int:
    """The exit code. Everything that isn't the model's answer goes to stderr, except at the prompt."""
    sampling = _sampling(sets)
    question = oneshot.join_prompt(prompt, oneshot.piped_text(sys.stdin))
    if question is None:
        _need_terminal(as_json)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that can't show a character shows `?`
    with endpoint(target, say=_to_stderr, report=report, profiles=profiles) as client:
        session = open_session(client, model, sampling, system)
        if question is not None:
            return oneshot.run(session, question, as_json=as_json, stats=bool(stats))
        from deploykit.chat.repl import Repl

        return Repl(session, stats=stats is not False).run()


@contextlib.contextmanager
def endpoint(
    target: str | None,
    *,
    say: Callable[[str], None],
    report: Report,
    recipe_sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
) -> Iterator[Client]:
    """A client of what `target` names; a private deployment that had to be started ends with the block.

    `say` gets a line on what is talked to, `report` the stages of a start. `recipe_sets` are keys of the recipe, and
    `profiles` some of its profiles, for a deployment that is still to be started.
    """
    key = api_key()
    where = choose(target)
    if isinstance(where, Attach):
        if recipe_sets or profiles:
            option = "--set" if recipe_sets else "--profile"
            raise ConfigError(f"{option} changes a recipe before it starts", why=f"this is {where.note}")
        say(f"attached to {where.note}")
        if key and not _is_private(where.base):
            say("the key in DEPLOYKIT_API_KEY goes there unencrypted: prefer https")
        if where.deployment is not None:
            _wait_ready(where.deployment, say)
        yield Client(where.base, key)
        return
    say(f"starting {where.note}")
    sets = [*recipe_sets, *_own_name(where.target, recipe_sets, profiles)]
    with launch(where.target, sets=sets, profiles=profiles, private=True, report=report) as launched:
        launched.wait_ready(report)
        yield Client(base_url(launched.url))  # asks for no key, and must not be told one


def _own_name(target: str, sets: Sequence[str], profiles: Sequence[str]) -> list[str]:
    """The setting by which a private deployment, whose own name is made up, serves the model under the usual one."""
    loaded = load(target, sets=sets, profiles=profiles)
    if loaded.recipe.server.model_names:
        return []
    return [f"server.model_names={json.dumps([loaded.name])}"]


def _is_private(base: str) -> bool:
    """Whether nobody on the way can read what is sent."""
    parts = urlsplit(base)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def api_key() -> str | None:
    """DEPLOYKIT_API_KEY, as something that can stand in a header."""
    key = os.environ.get("DEPLOYKIT_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "DEPLOYKIT_API_KEY has characters that no HTTP header takes", fix="set it to the key alone"
        )
    return key or None


def _wait_ready(name: str, report: Callable[[str], None]) -> None:
    """Until a deployment that is starting serves."""
    deadline = time.monotonic() + START_TIMEOUT
    said = False
    while (record := state.read(name)) is not None and record.status == "starting":
        if not said:
            report(f"{name} is still starting")
            said = True
        if time.monotonic() > deadline:
            raise DeploykitError(
                f"{name} did not get ready within {START_TIMEOUT:.0f} s", fix=f"deploykit logs {name}"
            )
        time.sleep(0.2)
    if record is None or not record.live:
        why = record.error if record else None
        raise DeploykitError(f"{name} has stopped", why=why, fix=f"deploykit logs {name}")


def _sampling(sets: Sequence[str]) -> dict[str, Any]:
    values = dict(params.parse_assignment(text) for text in sets)
    return {name: value for name, value in values.items() if value is not None}


def _need_terminal(as_json: bool) -> None:
    if as_json:
        raise ConfigError(
            "--json answers one question", fix='add one: deploykit chat TARGET "QUESTION" --json'
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "there is no question, and no terminal to ask for one",
            fix='deploykit chat TARGET "QUESTION", or pipe it into stdin',
        )


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
