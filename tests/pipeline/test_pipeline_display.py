"""What a person sees: a bar over a big batch, the start's stages, the engine's log at the level that was asked for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from deploykit import GenerationConfig, GenerationError, Pipeline, pipeline
from deploykit.pipe.progress import BIG_BATCH

pytestmark = pytest.mark.usefixtures("fake_runner")


def test_a_pipe_says_nothing_where_nobody_looks(pipe: Pipeline, capfd: pytest.CaptureFixture[str]) -> None:
    pipe(["Hi"] * (BIG_BATCH + 1))
    assert capfd.readouterr() == ("", "")


def test_a_big_batch_shows_how_far_it_is(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = GenerationConfig(max_new_tokens=3)
    with pipeline(tiny, generation_config=config, progress=True) as pipe:
        capfd.readouterr()
        pipe(["Hi"] * BIG_BATCH)
        out, err = capfd.readouterr()
        assert out == ""
        assert f"{BIG_BATCH}/{BIG_BATCH}" in err
        assert f"{3 * BIG_BATCH} tokens" in err
        pipe(["Hi"] * (BIG_BATCH - 1))
        assert capfd.readouterr().err == ""


def test_the_engines_log_comes_at_its_own_levels(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOYKIT_FAULT", "engine.step:raise@3")
        with pipeline(tiny, log_level="INFO") as pipe, pytest.raises(GenerationError) as caught:
            pipe("Hi")
    assert caught.value.code == "internal"
    records = [(r.levelno, r.message) for r in caplog.records if r.name == "deploykit.engine"]
    assert (logging.ERROR, "a step failed: ScriptedFault: engine.step:raise@3") in records
    assert (logging.ERROR, "Traceback (most recent call last):") in records
    assert not any(r.levelno < logging.INFO for r in caplog.records)


def test_a_level_that_does_not_exist_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="log_level is one of DEBUG, INFO, WARNING, ERROR"):
        pipeline(tiny, log_level="LOUD")  # type: ignore[arg-type]
