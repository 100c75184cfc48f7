"""`.bin` and `.pth` made into safetensors: what comes out, what is refused, and what an interrupted one leaves."""

from __future__ import annotations

import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pickled_models import State, make_model, read, to_meta, write_bin, write_meta
from transformers import LlamaForCausalLM

from deploykit.checkpoint import CheckpointError, read_facts, unpickle, unpickle_meta
from deploykit.checkpoint.convert_pickled import convert_pickled
from deploykit.checkpoint.pickled import recognise
from deploykit.engine.pytorch.model import load_model
from deploykit.errors import ConfigError


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return make_model()


@pytest.fixture
def home(tmp_path: Path, model: LlamaForCausalLM) -> Path:
    return write_bin(tmp_path / "old model", model)


# ---------------------------------------------------------------- what comes out


def test_a_folder_of_bin_files(home: Path, model: LlamaForCausalLM) -> None:
    seen: list[tuple[int, int]] = []
    made = convert_pickled(home, progress=lambda done, total: seen.append((done, total)))
    out = Path(made.path)
    assert out == home.with_name("old model-safetensors")
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    assert "auto_map" not in (out / "config.json").read_text()
    assert seen
    assert seen == sorted(seen)
    state = read(out)
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert sorted(p.name for p in home.parent.iterdir()) == ["old model", "old model-safetensors"]
    with pytest.raises(ConfigError, match="there already"):
        convert_pickled(home)
    assert "resource limits" in made.limits


def test_shards_and_odd_tensors(tmp_path: Path) -> None:
    """Two shards, one in torch's older format; views, shared storage, every dtype, scalars and empty tensors."""
    folder = tmp_path / "m"
    folder.mkdir()
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    first: State = {"a.view": base[:, 1:3], "a.transposed": base.T, "a.tied": base, "a.tied_too": base}
    dtypes = (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool)
    second = {f"b.{i}": torch.arange(5).to(dtype) for i, dtype in enumerate(dtypes)}
    second |= {
        "b.scalar": torch.tensor(2.5),
        "b.empty": torch.zeros(0, 3),
        "b.fp8": base.to(torch.float8_e4m3fn),
    }
    torch.save(first, folder / "pytorch_model-00001-of-00002.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": second}, folder / "pytorch_model-00002-of-00002.bin")
    index = {n: "pytorch_model-00001-of-00002.bin" for n in first} | {
        n: "pytorch_model-00002-of-00002.bin" for n in second
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "out").mkdir()
    done = unpickle.convert(list(recognise(folder).files), 4096, tmp_path / "out")
    assert done["tensors"] == len(first) + len(second)
    from safetensors.torch import load_file

    found: State = {}
    for shard in sorted((tmp_path / "out").glob("*.safetensors")):
        found |= load_file(shard)
    for name, tensor in {**first, **second}.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name].float(), tensor.float()), name
    written = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(written["weight_map"]) == set(index)


def merge(folder: Path, out: Path) -> dict[str, Any]:
    """What the child does with it, without the process around it."""
    files = list(recognise(folder).files)
    sizes = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16}
    out.mkdir()
    parts = [unpickle.load(f) for f in files]
    return unpickle_meta.merge(files, parts, sizes, 1 << 20, out, lambda *a, **k: None)


@pytest.mark.parametrize(("parts", "embedding"), [(2, 0), (4, 1)])
def test_metas_layout(tmp_path: Path, model: LlamaForCausalLM, parts: int, embedding: int) -> None:
    folder = write_meta(tmp_path / "m", to_meta(model.state_dict(), parts, embedding))
    (folder / "tokenizer.model").write_bytes(b"pieces")
    with pytest.raises(CheckpointError, match="a pickle") as refused:
        read_facts(folder)
    assert f"`deploykit convert {folder}`" in str(refused.value)
    convert_pickled(folder, tmp_path / "out")
    facts = read_facts(tmp_path / "out")
    state = read(tmp_path / "out")
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    loaded = load_model(facts, state.items(), torch.float32, lambda fraction: None)
    loaded.set_attn_implementation("sdpa")
    ids = torch.arange(40).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_what_params_json_does_not_say(tmp_path: Path) -> None:
    from deploykit.checkpoint.meta_llama import make_config, read_params

    def config(vocab: int = 32000, **changes: Any) -> dict[str, Any]:
        write_meta(tmp_path, [], **changes)
        return make_config(
            read_params(tmp_path), vocab=vocab, inner=96, dtype="bfloat16", tied=False, context=None
        )

    assert config()["max_position_embeddings"] == 4096
    assert config(norm_eps=1e-6)["max_position_embeddings"] == 2048
    assert config(rope_theta=1000000.0)["max_position_embeddings"] == 16384
    third = config(128256, rope_theta=500000.0, use_scaled_rope=True)
    assert third["max_position_embeddings"] == 131072
    assert third["rope_parameters"]["factor"] == 8.0
    assert third["eos_token_id"] == [128001, 128008, 128009]
    assert config(sliding_window=4096)["architectures"] == ["MistralForCausalLM"]
    for changes in (
        {"moe": {"num_experts": 8}},
        {"dim": 0},
        {"n_heads": "4"},
        {"n_heads": 5},
        {"rope_theta": -1},
    ):
        with pytest.raises(CheckpointError, match=next(iter(changes))):
            config(**changes)


# ---------------------------------------------------------------- what is refused


class Evil:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def test_a_pickle_that_runs_code_is_refused_and_not_run(home: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"a": Evil(os.system, f"touch {canary}")}, home / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="something else than tensors") as e:
        convert_pickled(home)
    assert "posix.system" in str(e.value)
    assert "pytorch_model.bin" in str(e.value)
    assert not canary.exists()
    assert sorted(p.name for p in home.parent.iterdir()) == ["old model"]


def bomb(path: Path) -> None:
    """A record of zeros that unpacks to a hundred times the file's size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("archive/data.pkl", b"\x80\x02" + b"]" * (8 << 20))
        z.writestr("archive/version", "3")


def legacy_tar(path: Path) -> None:
    path.write_bytes(b"pickle\0" + bytes(1024))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.save([1, 2], p), "no table of tensors"),
        (lambda p: torch.save({}, p), "no table of tensors"),
        (lambda p: torch.save({"a": 1}, p), "not a tensor"),
        (lambda p: torch.save({"a": [torch.ones(1)]}, p), "not a tensor"),
        (lambda p: torch.save({1: torch.ones(1)}, p), "isn't plain text"),
        (lambda p: torch.save({"a\x1b[2J": torch.ones(1)}, p), "isn't plain text"),
        (lambda p: torch.save({"__metadata__": torch.ones(1)}, p), "keeps for itself"),
        (lambda p: torch.save({"a": torch.ones(1).expand(1 << 40)}, p), "claims more"),
        (lambda p: torch.save({"a": torch.eye(3).to_sparse()}, p), "isn't supported"),
        (lambda p: torch.save({"a": torch.ones(2, dtype=torch.complex128)}, p), "isn't supported"),
        (lambda p: torch.save({"a": Evil(eval, "1")}, p), "eval"),
        (lambda p: torch.save({"a": Evil(open, "/etc/passwd")}, p), "else than tensors"),
        (lambda p: p.write_bytes(b""), "damaged|else than tensors"),
        (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(500)), "damaged"),
        (lambda p: p.write_bytes(random.Random(0).randbytes(5000)), "damaged|else than tensors"),
        (lambda p: p.write_bytes(struct.pack("<Q", 2) + b"{}"), "damaged|else than tensors"),
        (bomb, "compressed"),
        (legacy_tar, "damaged|else than tensors"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "pytorch_model.bin"
    make(path)
    with pytest.raises(CheckpointError, match=reason) as e:
        unpickle.load(path)
    assert str(path) in str(e.value)
    assert "\x1b" not in str(e.value)


def test_damaged_files_are_refused(home: Path) -> None:
    """Cut anywhere and changed anywhere: an error that names the file, or the same names as before."""
    path = home / "pytorch_model.bin"
    sound = path.read_bytes()
    rng = random.Random(7)
    messages: list[str] = []
    for i in range(60):
        data = bytearray(sound[: rng.randrange(len(sound))] if i % 3 == 0 else sound)
        for _ in range(0 if i % 3 == 0 else rng.choice((1, 8, 64))):
            data[rng.randrange(len(data)) if i % 2 else -rng.randrange(1, 4000)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            assert unpickle.load(path)
        except CheckpointError as e:
            messages.append(str(e))
    assert len(messages) >= 20
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p[1].pop("norm.weight"), "don't go together"),
        (lambda p: p[1].update(extra=torch.ones(1)), "same tensors"),
        (lambda p: [x.update({"layers.0.strange.weight": torch.ones(1)}) for x in p], "no such tensor"),
        (lambda p: [x.pop("layers.0.feed_forward.w1.weight") for x in p], "missing"),
        (lambda p: p[0].update({"output.weight": torch.ones(3, 64)}), "don't go together"),
        (lambda p: [x.update({"layers.1.attention.wq.weight": torch.ones(8, 64)}) for x in p], "wrong shape"),
    ],
)
def test_parts_that_make_no_model(
    tmp_path: Path, model: LlamaForCausalLM, change: Callable[[list[State]], object], reason: str
) -> None:
    parts = to_meta(model.state_dict(), 2, 1)
    change(parts)
    folder = write_meta(tmp_path / "m", parts)
    with pytest.raises(CheckpointError, match=reason) as e:
        merge(folder, tmp_path / "out")
    assert e.value.tensor is not None


def test_folders_that_are_incomplete(tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(CheckpointError) as e:
            recognise(tmp_path)
        return str(e.value)

    assert "no .bin and no .pth" in refused()
    (tmp_path / "consolidated.01.pth").write_bytes(b"")
    assert "params.json" in refused()
    (tmp_path / "params.json").write_text("{}")
    assert "a part of the weights is missing" in refused()
    index = tmp_path / "pytorch_model.bin.index.json"
    for shard, reason in (
        ("../x.bin", "isn't the name"),
        ("/etc/passwd", "isn't the name"),
        (3, "isn't the name"),
    ):
        index.write_text(json.dumps({"weight_map": {"a": shard}}))
        assert reason in refused()
    index.write_text(json.dumps({"weight_map": {"a": "gone.bin"}}))
    assert "missing" in refused()
    os.mkfifo(tmp_path / "gone.bin")
    assert "regular file" in refused()
