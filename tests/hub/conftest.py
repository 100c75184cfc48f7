"""A hub that speaks both protocols, asked as Hugging Face and as ModelScope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_fakes import FILES, HF_TOKEN, MS_TOKEN, FakeHub, MakeRef, serve
from modelscope_asked import asked_in_a_fork

from deploykit.hub import HfRef, ModelScopeRef, modelscope
from deploykit.hub import http as http_module
from deploykit.hub.modelscope_sdk import Told


@pytest.fixture(scope="session")
def sdk() -> Iterator[Callable[[bytes, str], Told]]:
    with asked_in_a_fork() as run:
        yield run


@pytest.fixture
def hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sdk: Callable[[bytes, str], Told]
) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "DEPLOYKIT_OFFLINE", "DEPLOYKIT_USE_MODELSCOPE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http_module, "BACKOFF_S", 0.01)
    monkeypatch.setattr(modelscope, "_run", sdk)
    with serve(FakeHub(dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", MS_TOKEN)
        yield running


@pytest.fixture(params=["hf", "modelscope"])
def ref(request: pytest.FixtureRequest) -> MakeRef:
    """Makes references to the hub's repository: every test of it is one of both protocols."""

    def make(repo: str = "owner/name", **kwargs: object) -> HfRef | ModelScopeRef:
        return HfRef(repo, **kwargs) if request.param == "hf" else ModelScopeRef(repo, **kwargs)  # type: ignore[arg-type]

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
