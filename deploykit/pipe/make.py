"""`pipeline(...)`: from a recipe, a model or an id to a pipe that answers."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from deploykit.pipe.core import Core
from deploykit.pipe.engine import EngineHost
from deploykit.pipe.engine_config import EngineConfig
from deploykit.pipe.generation_config import GenerationConfig
from deploykit.pipe.pipeline import Pipeline
from deploykit.pipe.progress import StartProgress, wanted
from deploykit.prompt.templates.fields import ChatTemplateConfig
from deploykit.server.service import Service
from deploykit.supervise.types import Limits

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

# Nothing listens, so the recipe's address and keys ask for nothing.
_PRIVATE = ("server.host=127.0.0.1", "server.port=0", "server.api_keys=[]")


def pipeline(
    model: str | os.PathLike[str],
    /,
    *,
    generation_config: GenerationConfig | None = None,
    chat_template_config: ChatTemplateConfig | None = None,
    engine_config: EngineConfig | None = None,
    log_level: LogLevel = "WARNING",
    sets: Sequence[str] = (),
    profiles: Sequence[str] = (),
    offline: bool = False,
    progress: bool | None = None,
) -> Pipeline:
    """Load a model into a process of its own and return the pipe to it; use it with `with`, or `close()` it.

    `model` is what `deploykit up` takes: a recipe (.yaml), the name of a shipped one, a model's folder, a .gguf file,
    or a hub id `owner/name`.

    - `generation_config`: what holds for every call that doesn't say otherwise.
    - `chat_template_config`: over the recipe's `chat` section: a built-in by name, or fields of a template.
    - `engine_config`: over the recipe's `engine` section.
    - `log_level`: least level of the records of the logger `deploykit` (the engine's log among them).
    - `sets`: any other key of the recipe, as `KEY=VALUE`.
    - `profiles`: profiles of the recipe, laid over it in this order.
    - `offline`: use only what is on the disk.
    - `progress`: show what the start does, and a bar over big batches; None = where stderr is a terminal.

    Raises DeploykitError (RecipeError, PlanError and its other kinds), as `deploykit up` would print it.
    """
    from deploykit.deployment.prepare import prepare

    _set_log_level(log_level)
    began = time.monotonic()
    overrides = list(sets)
    if engine_config is not None:
        overrides += engine_config.settings()
    if chat_template_config is not None:
        overrides += _settings("chat", chat_template_config.to_recipe())
    overrides += _PRIVATE
    with StartProgress(wanted(progress)) as display:
        prepared = prepare(
            os.fspath(model), sets=overrides, profiles=profiles, report=display.report, offline=offline
        )
        restart = prepared.loaded.recipe.server.restart
        service = Service.from_spec(msgspec.structs.replace(prepared.serve, engine_socket=""))
        host = EngineHost(
            prepared.plan,
            limits=Limits(restart_max=restart.max, restart_window=restart.window),
            log_level=log_level.lower(),
            report=display.report,
            began=began,
        )
        try:
            service.client.socket_path = str(host.socket)
            core = Core(service, host)
        except BaseException:
            host.close()
            raise
    return Pipeline(
        core,
        model=prepared.loaded.name,
        eos_token_ids=prepared.plan.eos_token_ids,
        generation_config=generation_config,
        progress=progress,
    )


def _settings(prefix: str, keys: Mapping[str, Any]) -> list[str]:
    """A part of a recipe as `KEY=VALUE`."""
    found: list[str] = []
    for key, value in keys.items():
        path = f"{prefix}.{key}"
        found += _settings(path, value) if isinstance(value, Mapping) else [f"{path}={json.dumps(value)}"]
    return found


def _set_log_level(level: str) -> None:
    """Records of `level` and above are shown; on stderr where the program has set up no logging itself."""
    names = ("DEBUG", "INFO", "WARNING", "ERROR")
    if level not in names:
        raise ValueError(f"log_level is one of {', '.join(names)}, not {level!r}")
    logger = logging.getLogger("deploykit")
    logger.setLevel(level)
    if not logger.hasHandlers():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
