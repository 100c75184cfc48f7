"""Chat templates as Python classes: registered under a name, used like a built-in.

    @register_template("my-model")
    class MyModel:
        stop_words = ("<end>",)  # optional
        def get_prompt(self, prompt, sequence_start=True): ...
        def messages2prompt(self, messages, sequence_start=True): ...

A recipe that names the file (`chat.python`) has it run in the front process: it is the user's own code, with the rights
of the server. Nothing else ever runs code of a template.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from deploykit.errors import ConfigError
from deploykit.prompt.templates.builtins import ALIASES, names

C = TypeVar("C", bound=type)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_METHODS = ("get_prompt", "messages2prompt")
_registered: dict[str, type] = {}


def register_template(name: str) -> Callable[[C], C]:
    """Class decorator: the class is the chat template `name` from now on; a second one of that name takes its place.

    Raises ConfigError for a name that a built-in has, and for a class without `get_prompt` and `messages2prompt`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{str(name)[:80]!r} can't be the name of a chat template",
            fix="use up to 63 letters, digits, `.`, `_` and `-`",
        )
    if name == "auto" or name.lower() in ALIASES or name.lower() in names():
        raise ConfigError(
            f"the chat template {name!r} is a built-in", fix="register yours under another name"
        )

    def decorate(cls: C) -> C:
        for method in _METHODS:
            if not callable(getattr(cls, method, None)):
                raise ConfigError(
                    f"the chat template class {cls.__name__} has no method {method}",
                    fix="it needs get_prompt(prompt, sequence_start) and messages2prompt(messages)",
                )
        _registered[name] = cls
        return cls

    return decorate


def registered() -> dict[str, type]:
    """The classes by their names."""
    return dict(_registered)


def source_of(name: str) -> str:
    """The file that a registered class was written in; "" where it is in none, and only this process knows it."""
    try:
        file = inspect.getsourcefile(_registered[name])
    except (TypeError, OSError):
        file = None
    return str(Path(file).absolute()) if file is not None and Path(file).is_file() else ""


def is_file(reference: str) -> bool:
    """Whether `chat.python` names a file, rather than a module."""
    return reference.endswith(".py") or "/" in reference or "\\" in reference


def load_python(reference: str) -> list[str]:
    """Run the file, or import the module, and give the names of the templates that are registered then by it.

    Raises ConfigError: it is missing, it fails (with its line), or it registers nothing.
    """
    where = "chat.python"
    if not reference:
        raise ConfigError(
            "the class of the chat template isn't in a file",
            why="a server is a process of its own, and runs the file again",
            fix="move the class into a .py file and name it: `chat.python: ./my_template.py`",
        )
    before = dict(_registered)
    try:
        module = _run_file(Path(reference)) if is_file(reference) else importlib.import_module(reference)
    except ConfigError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"the chat template's Python {'file' if is_file(reference) else 'module'} fails",
            where=f"{where}: {last.filename}, line {last.lineno}",
            why=f"{type(error).__name__}: {error}",
        ) from None
    new = [n for n, cls in _registered.items() if before.get(n) is not cls]
    found = new or [n for n, cls in _registered.items() if cls.__module__ == module.__name__]
    if not found:
        raise ConfigError(
            "no chat template is registered there",
            where=f"{where}: {reference}",
            fix='mark a class with @register_template("name"), from `deploykit import register_template`',
        )
    return found


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError("there is no such file", where=f"chat.python: {path}", fix="check the path")
    name = f"deploykit_user_template_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("this isn't a Python file", where=f"chat.python: {path}", fix="name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and the like look their module up
    spec.loader.exec_module(module)
    return module
