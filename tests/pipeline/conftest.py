"""Pipes of this folder: one over the fake runner (a hash instead of a model, but real processes), one real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pipe_waiting import until

from deploykit import GenerationConfig, Pipeline, pipeline


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint


@pytest.fixture(scope="module")
def fake_runner() -> Iterator[pytest.MonkeyPatch]:
    """Engines that are started in this module run the fake; its steps take a millisecond."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOYKIT_TESTING", "1")
        patch.setenv("DEPLOYKIT_RUNNER", "fake")
        patch.setenv("DEPLOYKIT_FAULT", "engine.step:delay=0.001")
        yield patch


# Unlike the checkpoint's own, it writes an answer into the history as it was written after the prompt.
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def pipe(
    fake_runner: pytest.MonkeyPatch, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    template = tmp_path_factory.mktemp("template") / "template.jinja"
    template.write_text(TEMPLATE)
    config = GenerationConfig(max_new_tokens=12)
    sets = ["engine.max_batch_size=8", f"chat.template={template}"]
    with pipeline(tiny, generation_config=config, sets=sets) as made:
        yield made
        made("still there")


@pytest.fixture
def idle(pipe: Pipeline) -> Callable[[], None]:
    """Waits until the engine works on nothing, as its heartbeat says."""

    def wait() -> None:
        seen = pipe._core.client.state.heartbeat

        def is_idle() -> bool:
            now = pipe._core.client.state.heartbeat
            return now is not None and now is not seen and now.running + now.waiting == 0

        until(is_idle, "the engine still works on what nobody waits for")

    return wait
