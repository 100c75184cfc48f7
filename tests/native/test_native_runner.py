"""The runner around the library: what it loads, what it promises the planner, and how it says what went wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import native_gguf
import numpy as np
import pytest
from native_driver import load, native_plan
from native_zoo import build_native
from pytorch_driver import Driver, Sequence

from deploykit.build.types import CPU, Build
from deploykit.checkpoint import CheckpointError, read_facts
from deploykit.engine.native import NativeRunner, library
from deploykit.engine.native.describe import describe
from deploykit.engine.native.memory import memory_of
from deploykit.engine.native.names import manifest, required
from deploykit.engine.native.sizes import KV_TYPES, kv_block_bytes, scratch_bytes, weight_bytes
from deploykit.engine.types import Admit, RunnerError, SamplingParams, Span, Step, Want, pack
from deploykit.errors import ConfigError, DeploykitError

pytestmark = pytest.mark.usefixtures("native_library")


def quiet(stage: str, fraction: float) -> None:
    pass


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native_gguf.write(tmp_path_factory.mktemp("native") / "m.gguf", "Q4_1")


# ---------------------------------------------------------------- the process


def test_the_engine_process_loads_neither_torch_nor_transformers(gguf: Path) -> None:
    plan = msgspec.json.encode(native_plan(gguf)).decode()
    code = (
        "import sys, msgspec\n"
        "from deploykit.engine import process\n"
        "from deploykit.plan.types import Plan\n"
        f"plan = msgspec.json.decode({plan!r}, type=Plan)\n"
        "process.make_runner(plan).load(plan, lambda *_: None)\n"
        "heavy = {'torch', 'transformers', 'safetensors', 'pydantic', 'yaml', 'tokenizers', 'huggingface_hub'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_loading_reports_its_stages_in_order(gguf: Path) -> None:
    seen: list[tuple[str, float]] = []
    runner = NativeRunner()
    runner.load(native_plan(gguf), lambda stage, fraction: seen.append((stage, fraction)))
    runner.close()
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == ["weights", "engine", "kv"]
    for stage in stages:
        fractions = [fraction for name, fraction in seen if name == stage]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
    runner.close()  # twice does nothing


# ---------------------------------------------------------------- what the planner is told


@pytest.mark.parametrize("kv_dtype", KV_TYPES)
@pytest.mark.parametrize("block_len", [8, 16, 64, 256])
@pytest.mark.parametrize("name", ["llama", "qwen3-head-40", "gemma3"])
def test_kv_blocks_are_as_large_as_the_library_says(
    name: str, block_len: int, kv_dtype: str, tmp_path: Path, native_library: ModuleType
) -> None:
    model = describe(read_facts(_checkpoint(name, tmp_path)))
    expected = native_library.kv_block_bytes(model.for_binding(128), KV_TYPES[kv_dtype], block_len, "cpu")
    assert kv_block_bytes(model, kv_dtype, block_len) == expected


_built: dict[str, Path] = {}


def _checkpoint(name: str, folder: Path) -> Path:
    if name not in _built:
        build_native(name, folder)
        _built[name] = folder
    return _built[name]


@pytest.mark.parametrize("name", ["llama-tied-bias", "gemma2", "glm4", "olmo2", "qwen3-moe-mixed"])
def test_the_manifest_is_the_one_that_the_library_asks_for(
    name: str, tmp_path: Path, native_library: ModuleType
) -> None:
    build_native(name, tmp_path)
    model = describe(read_facts(tmp_path))
    asked = native_library.required_weights(model.for_binding(128))
    assert [(w["name"], w["rows"], w["cols"]) for w in asked] == [
        (need.name, need.rows, need.cols) for need in required(model)
    ]


def test_predicted_bytes_are_what_is_taken(smollm2: Path, native_library: ModuleType) -> None:
    from deploykit.engine.native.loading import load_engine

    facts = read_facts(smollm2)
    model = describe(facts)
    for tokens, rows, dtype in ((64, 1, "bfloat16"), (512, 16, "bfloat16"), (2048, 16, "float32")):
        plan = native_plan(smollm2, max_prefill_tokens=tokens, max_batch_size=rows, dtype=dtype)
        engine, capacity = load_engine(native_library, plan, facts, quiet)
        assert weight_bytes(manifest(facts, model).weights) == capacity["weight_bytes"]
        assert capacity["kv_bytes"] == plan.num_blocks * plan.block_bytes
        table = memory_of(facts, plan.threads)(tokens, rows, plan.session_len, 0)
        predicted = sum(i.bytes for i in table if i.name in ("activations", "logits", "token pool"))
        assert 0.85 * predicted <= capacity["scratch_bytes"] <= 1.15 * predicted
        assert scratch_bytes(model, tokens, plan.threads) < predicted
        engine.close()


def test_a_plan_that_counts_otherwise_is_refused(gguf: Path) -> None:
    plan = native_plan(gguf)
    wrong = msgspec.structs.replace(plan, block_bytes=plan.block_bytes + 64)
    with pytest.raises(DeploykitError, match="count KV memory differently"):
        NativeRunner().load(wrong, quiet)


# ---------------------------------------------------------------- steps


def test_embeddings_as_input_are_what_the_table_would_give(gguf: Path) -> None:
    from native_reference import Reference

    runner, capacity = load(gguf)
    prompt = list(range(3, 23))
    plain = Sequence(prompt, 6)
    Driver(runner, capacity).run([plain])  # type: ignore[arg-type]
    table = Reference(read_facts(gguf), 128).weights["embed.weight"]
    runner.put_embeddings("picture", table[prompt[5:12]])
    told = [7 if 5 <= i < 12 else token for i, token in enumerate(prompt)]
    driver = Driver(runner, capacity, seed=3)  # type: ignore[arg-type]
    with_span = Sequence(told, 6)
    driver.admit(with_span)
    driver.admits[-1] = msgspec.structs.replace(driver.admits[-1], spans=(Span(5, 7, "picture"),))
    while not with_span.done:
        driver.step([(with_span, len(with_span.tokens) - with_span.computed)])
    driver.step([])
    assert with_span.output == plain.output
    runner.drop_embeddings("picture")
    with pytest.raises(ValueError, match="128"):
        runner.put_embeddings("picture", np.zeros((2, 100), np.float32))
    runner.close()


def test_a_step_that_can_not_be_read_fails_whole_and_the_engine_goes_on(gguf: Path) -> None:
    runner, capacity = load(gguf)
    one = pack([0])
    twice = pack([0, 0])
    bad = Step(seq=1, rows=twice, epochs=twice, num_tokens=twice, flags=twice)
    with pytest.raises(RunnerError):
        runner.collect(runner.launch(bad))
    odd = Admit(
        row=99, epoch=1, tokens=one, prompt_len=1, computed=0, limit=2, sampling=SamplingParams(), seed=0
    )
    step = Step(seq=2, rows=b"", epochs=b"", num_tokens=b"", flags=b"", admits=(odd,))
    with pytest.raises(RunnerError):
        runner.collect(runner.launch(step))
    sequence = Sequence(list(range(10)), 4)
    driver = Driver(runner, capacity)  # type: ignore[arg-type]
    driver.seq = 2
    driver.run([sequence])
    assert len(sequence.output) == 4
    runner.close()


def test_a_hidden_state_can_be_had(gguf: Path) -> None:
    runner, capacity = load(gguf)
    sequence = Sequence([1, 2, 3], 1)
    driver = Driver(runner, capacity)  # type: ignore[arg-type]
    driver.admit(sequence)
    result = driver.step([(sequence, 3)], want=Want.POOL)
    pooled = np.frombuffer(next(iter(result.pooled.values())), np.float32)
    assert pooled.shape == (native_gguf.sizes("Q4_1")[0],)
    assert np.isfinite(pooled).all()
    runner.close()


# ---------------------------------------------------------------- what can't be loaded


def test_what_native_does_not_run_is_refused_by_name(tmp_path: Path) -> None:
    build_native("llama", tmp_path)
    plan = native_plan(tmp_path)
    with pytest.raises(DeploykitError, match=r"not built|no CUDA device"):
        NativeRunner().load(msgspec.structs.replace(plan, device="cuda", compute_capability=(9, 0)), quiet)
    with pytest.raises(ConfigError, match="no KV memory of type fp8"):
        NativeRunner().load(msgspec.structs.replace(plan, kv_dtype="fp8"), quiet)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"head_dim": 32', '"head_dim": 12'))
    with pytest.raises(DeploykitError, match="heads of 12 dimensions"):
        NativeRunner().load(plan, quiet)


def test_a_file_that_is_cut_while_it_loads_is_named(tmp_path: Path) -> None:
    build_native("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()

    def cut(stage: str, fraction: float) -> None:
        if stage == "weights" and fraction > 0.3:
            with open(file, "r+b") as f:
                f.truncate(len(data) // 2)

    with pytest.raises(CheckpointError, match="cut short") as caught:
        NativeRunner().load(native_plan(tmp_path), cut)
    assert str(file) in str(caught.value)
    assert "tensor model." in str(caught.value)


def test_a_library_that_is_not_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "locate", lambda target: None)
    with pytest.raises(DeploykitError, match="not built") as caught:
        library.open_library()
    assert "deploykit build" in str(caught.value.fix)


def test_a_module_and_a_library_of_two_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build(CPU, Path("/x"), Path("/x/m.so"), Path("/x/l.so"), key="k", origin="built")
    odd = SimpleNamespace(abi_version=lambda: 1, ABI_VERSION=2)
    monkeypatch.setattr(library, "locate", lambda target: build)
    monkeypatch.setattr(library, "load", lambda build: odd)
    with pytest.raises(DeploykitError, match="don't belong together"):
        library.open_library()


def test_what_the_linker_says_is_passed_on(tmp_path: Path) -> None:
    """In a process of its own, since this one holds the real library."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deploykit.build.types import CPU, Build\n"
        "from deploykit.engine.native import library\n"
        f"file = Path({str(tmp_path / '_deploykit_native.so')!r})\n"
        "file.write_bytes(b'no ELF file at all')\n"
        "build = Build(CPU, file.parent, file, file, key='k', origin='built')\n"
        "library.locate = lambda target: build\n"
        "try:\n    library.open_library()\n"
        "except Exception as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "can't be loaded" in done.stdout, done.stderr
    assert "too short" in done.stdout or "invalid ELF" in done.stdout
