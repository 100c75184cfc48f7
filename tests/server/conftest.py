"""One stand-in engine and one front process for most tests; those that need other limits start their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from server_harness import Front, Script, StandInEngine, make_spec, make_tokenizer, run_front
from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Short, for the sake of Unix sockets' paths."""
    with tempfile.TemporaryDirectory(prefix="dk-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def tokenizer_path(folder: Path) -> Path:
    return make_tokenizer(folder / "tokenizer.json")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer_path))


@pytest.fixture(scope="session")
def shared_engine(folder: Path, tokenizer: Tokenizer) -> StandInEngine:
    engine = StandInEngine(folder / "engine.sock", tokenizer)
    engine.start()
    return engine


@pytest.fixture(scope="session")
def front(folder: Path, tokenizer_path: Path, shared_engine: StandInEngine) -> Iterator[Front]:
    with run_front(folder, make_spec(tokenizer_path, shared_engine.socket_path)) as front:
        yield front


@pytest.fixture
def engine(shared_engine: StandInEngine) -> Iterator[StandInEngine]:
    """The stand-in behind `front`, with nothing left over from other tests."""
    shared_engine.script = Script()
    shared_engine.release.clear()
    shared_engine.submits.clear()
    shared_engine.aborts.clear()
    yield shared_engine
    shared_engine.release.set()
    shared_engine.wait_for(lambda: not shared_engine.live)


@pytest.fixture
def client(front: Front) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{front.url}/v1", api_key="x", max_retries=0, timeout=20) as client:
        yield client
