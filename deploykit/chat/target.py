"""From what a person named to where to talk: a URL, a running deployment, or a private one to start."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from deploykit import shipped
from deploykit.chat.client import base_url
from deploykit.errors import ConfigError
from deploykit.supervise.state import DeploymentState, read_all

DEFAULT_RECIPE = "smollm2-135m"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Attach:
    """Talk to a server that runs. `deployment` is its name where it is one of ours."""

    base: str  # the API's root
    note: str  # for a person: what this is
    deployment: str | None = None


@dataclass(frozen=True)
class Start:
    """Start a private deployment of `target`, which `deploykit up` understands."""

    target: str
    note: str


def choose(target: str | None) -> Attach | Start:
    """Where `target` leads. Raises ConfigError when it leads nowhere, or to several places."""
    running = [s for s in read_all() if s.live and s.status != "draining"]
    shared = [s for s in running if not s.private]  # a private one ends with its own client
    if target is None:
        return _default(shared)
    if target == "-":
        raise ConfigError(
            "a recipe on stdin can't be talked to",
            why="here stdin is what is asked",
            fix="serve it, then talk to it: deploykit up - -d < recipe.yaml",
        )
    if re.match(r"https?://", target, re.IGNORECASE):
        return Attach(base_url(target), f"the server at {target}")
    if named := next((s for s in running if s.name == target), None):
        return _attach(named)
    path = Path(target).expanduser()
    if path.exists():
        resolved = str(path.resolve())
        same = [s for s in shared if _is_path(s.target) and str(Path(s.target).resolve()) == resolved]
        return _attach(same[-1]) if same else Start(resolved, f"a private deployment of {target}")
    if _HUB_ID.fullmatch(target) and path.suffix not in (".yaml", ".yml", ".gguf"):
        same = [s for s in shared if s.target == target]
        return _attach(same[-1]) if same else Start(target, f"a private deployment of {target}")
    if recipe := shipped.meant(target):
        return choose(str(recipe))
    raise _nowhere(target, [s.name for s in running])


def recipe_target(target: str | None) -> str:
    """What to give to `deploykit up` for `target`: the default recipe for None."""
    return _default_recipe().target if target is None else target


def _default(shared: list[DeploymentState]) -> Attach | Start:
    if len(shared) == 1:
        return _attach(shared[0])
    if shared:
        names = ", ".join(s.name for s in shared)
        raise ConfigError(f"{len(shared)} deployments are running: {names}", fix="say which one")
    return _default_recipe()


def _default_recipe() -> Start:
    recipe = shipped.path(DEFAULT_RECIPE)
    return Start(str(recipe), f"a private deployment of the default recipe {DEFAULT_RECIPE}")


def _attach(state: DeploymentState) -> Attach:
    return Attach(base_url(state.url), f"the running deployment {state.name} at {state.url}", state.name)


def _is_path(target: str) -> bool:
    return Path(target).is_absolute()


def _nowhere(target: str, running: list[str]) -> ConfigError:
    known = [*running, *shipped.names()]
    fix = "a recipe or the name of a shipped one, a model folder, a GGUF file, a hub id, a URL or a running deployment"
    if near := difflib.get_close_matches(target, known, n=1):
        fix = f"did you mean `{near[0]}`?"
    elif not re.search(r"[/.]", target):
        fix += "; to ask the default model something: deploykit chat -p TEXT"
    why = f"running: {', '.join(running)}" if running else "nothing is running, and there is no such file"
    return ConfigError(f"there is nothing called {target!r} to talk to", why=why, fix=fix)
