"""1,000 damaged checkpoints: each is refused with an error that names its file, or loads and answers; none crashes.

The loads run in child processes, so that a crash is seen as one and named with its seed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import native_gguf
import numpy as np
import pytest
import torch
from native_quantize import quantize_checkpoint
from native_zoo import NATIVE_ZOO, build_native
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoint"))

from mutations import mutate

pytestmark = pytest.mark.usefixtures("native_library")

CHILD = Path(__file__).with_name("fuzz_child.py")
SMALL = {
    "vocab_size": 32,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
}


class Child:
    """A child process that is started again after a crash."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def attempt(self, path: Path) -> dict[str, str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"path": str(path)}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line:
            found: dict[str, str] = json.loads(line)
            return found
        code = self.process.wait()
        self.process = None
        return {"outcome": "crash", "error": f"the process ended with {code}"}

    def close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    before = dict(NATIVE_ZOO)
    NATIVE_ZOO["small"] = ("llama", SMALL)
    NATIVE_ZOO["small-fused"] = ("phi3", SMALL)
    yield
    NATIVE_ZOO.clear()
    NATIVE_ZOO.update(before)


def check(child: Child, path: Path, file: Path, seeds: dict[int, bytes]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for seed, data in seeds.items():
        file.write_bytes(data)
        found = child.attempt(path)
        outcomes[found["outcome"]] += 1
        assert found["outcome"] in ("refused", "ran"), f"seed {seed}: {found}"
        if found["outcome"] == "refused":
            named = str(path) in found["error"] or "not implemented" in found["error"]
            assert named, f"seed {seed} does not name the file: {found['error']}"
    return outcomes


def header_bytes(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def test_damaged_safetensors(child: Child, tmp_path: Path) -> None:
    build_native("small", tmp_path)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    seeds = {seed: mutate(data, seed, header_bytes(data)) for seed in range(300)}
    assert check(child, tmp_path, file, seeds)["refused"] > 200


def test_damaged_gguf(child: Child, tmp_path: Path) -> None:
    path = native_gguf.write(tmp_path / "m.gguf", "Q4_1")
    data = path.read_bytes()
    header = data.index(b"output_norm.weight") + 200
    seeds = {seed: mutate(data, seed, header) for seed in range(300)}
    assert check(child, path, path, seeds)["refused"] > 150


@pytest.mark.parametrize(("method", "base"), [("awq", "small"), ("gptq", "small-fused")])
def test_damaged_packed_checkpoints(child: Child, method: Any, base: str, tmp_path: Path) -> None:
    quantize_checkpoint(tmp_path, build_native(base, tmp_path), method)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    seeds = {seed: mutate(data, seed, header_bytes(data)) for seed in range(100)}
    assert check(child, tmp_path, file, seeds)["refused"] > 60


def test_lies_about_dtypes_and_shapes(child: Child, tmp_path: Path) -> None:
    """Headers that are sound by themselves and say something else than the config: swapped, reshaped, recast."""
    quantize_checkpoint(tmp_path, build_native("small", tmp_path), "awq")
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    names = sorted(stored)
    seeds = {}
    for seed in range(150):
        rng = random.Random(seed)
        lie = dict(stored)
        name = rng.choice(names)
        tensor = lie[name]
        match rng.randrange(5):
            case 0:
                lie[name] = tensor.reshape(-1)
            case 1:
                lie[name] = tensor.repeat(2, *[1] * (tensor.ndim - 1))
            case 2:
                other = {
                    torch.int32: torch.float32,
                    torch.float16: torch.bfloat16,
                    torch.float32: torch.int32,
                }
                lie[name] = tensor.view(other.get(tensor.dtype, torch.uint8))
            case 3:
                lie[name] = tensor[: max(1, len(tensor) - 8)].clone()
            case _:
                other_name = rng.choice(names)
                lie[name], lie[other_name] = lie[other_name].clone(), lie[name].clone()
        save_file({k: v.contiguous() for k, v in lie.items()}, file)
        seeds[seed] = file.read_bytes()
    assert check(child, tmp_path, file, seeds)["refused"] > 100


def test_scales_and_weights_that_are_no_numbers(child: Child, tmp_path: Path) -> None:
    """NaN and infinity: in a scale they are refused at load, in a plain weight the request fails and nothing else."""
    quantize_checkpoint(tmp_path, build_native("small", tmp_path), "gptq")
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    floats = [n for n, t in stored.items() if t.is_floating_point()]
    for seed in range(50):
        rng = random.Random(seed)
        name = rng.choice(floats)
        lie = {k: v.clone() for k, v in stored.items()}
        flat = lie[name].view(-1)
        flat[rng.randrange(len(flat))] = rng.choice([torch.nan, torch.inf, -torch.inf])
        save_file(lie, file)
        found = child.attempt(tmp_path)
        if name.endswith(".scales"):
            assert found["outcome"] == "refused", f"seed {seed}: {found}"
            assert name in found["error"]
        else:
            assert found["outcome"] == "ran", f"seed {seed}: {found}"
            assert found["error"] in ("", "nonfinite_logits")


def test_lies_in_the_config(child: Child, tmp_path: Path) -> None:
    build_native("small", tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    values = [0, -1, 1, 3, 2**31, 2**63, 1e300, 0.5, "x", None, True, [], {}, [1], {"rope_type": "yarn"}]
    seeds = {}
    for seed in range(150):
        rng = random.Random(seed)
        lie = dict(config)
        lie[rng.choice(sorted(config))] = rng.choice(values)
        if rng.random() < 0.3:
            rope = dict(config["rope_parameters"])
            rope[rng.choice(["rope_theta", "rope_type", "factor", "partial_rotary_factor"])] = rng.choice(
                [*values, "linear", "dynamic", "llama3", "yarn", "longrope"]
            )
            lie["rope_parameters"] = rope
        seeds[seed] = json.dumps(lie).encode()
    outcomes = check(child, tmp_path, file, seeds)
    assert outcomes["refused"] > 30
    assert outcomes["ran"] > 30
    np.testing.assert_equal(sum(outcomes.values()), 150)
