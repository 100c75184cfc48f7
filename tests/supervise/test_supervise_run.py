"""However a deployment ends before its processes run, the record says so and nothing is held."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))
import tiny_checkpoint

from deploykit.deployment import prepare as preparing
from deploykit.deployment.stage import ignore
from deploykit.errors import ConfigError, DeploykitError
from deploykit.supervise.run import open_deployment, run
from deploykit.supervise.state import acquire, read


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/model")


def no_fit(*_: object, **__: object) -> None:
    raise DeploykitError("it doesn't fit", exit_code=3)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def terminate(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("state_folder")
@pytest.mark.parametrize(
    ("end", "status", "code", "error"),
    [
        (full_disk, "failed", 1, "the system refused: No space left on device"),
        (no_fit, "failed", 3, "it doesn't fit"),
        (interrupt, "stopped", 130, None),
        (terminate, "stopped", 0, None),
    ],
)
def test_an_end_while_preparing(
    end: Callable[..., None],
    status: str,
    code: int,
    error: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparing, "prepare", end)
    model = tiny_checkpoint.make(tmp_path / "tiny")
    opened = open_deployment(str(model), sets=["server.port=0"], report=ignore)
    with pytest.raises(ConfigError, match="already running"):
        acquire("tiny")
    handler = signal.getsignal(signal.SIGTERM)
    if status == "failed":
        with pytest.raises(DeploykitError):
            run(opened, report=ignore)
    else:
        assert run(opened, report=ignore) == code
    state = read("tiny")
    assert state is not None
    assert (state.status, state.exit_code, state.error) == (status, code, error)
    assert signal.getsignal(signal.SIGTERM) is handler
    os.close(acquire("tiny"))
    assert opened.listener.fileno() == -1


@pytest.mark.usefixtures("state_folder")
def test_a_busy_port_gives_the_name_back(tmp_path: Path) -> None:
    model = tiny_checkpoint.make(tmp_path / "tiny")
    opened = open_deployment(str(model), sets=["server.port=0"], report=ignore)
    port = opened.listener.getsockname()[1]
    with pytest.raises(ConfigError, match="already in use"):
        open_deployment(str(model), sets=[f"server.port={port}", "name=other"], report=ignore)
    os.close(acquire("other"))
    opened.close()
