"""The card that a suite runs on: its name, driver and toolkit, and the rates that it was measured to have."""

from __future__ import annotations

import json
import re
import subprocess

from deploykit.bench import ceilings
from deploykit.bench.suite_report import Card
from deploykit.errors import DeploykitError
from deploykit.hardware.machine import GPU, Machine
from deploykit.supervise.process import child_env, python_module

PROBE_TIMEOUT = 300.0  # seconds
TOOL_TIMEOUT = 20.0


def measure_gpu(gpu: GPU, machine: Machine) -> Card:
    """By a child that imports torch and ends, so that nothing of it stays on the card. Raises DeploykitError."""
    command = [*python_module("deploykit.bench.card_probe"), str(gpu.index)]
    env = child_env({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=PROBE_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise DeploykitError(
            f"{gpu.name} could not be measured", why=f"{PROBE_TIMEOUT:.0f} s went by"
        ) from None
    if done.returncode != 0:
        why = " | ".join(done.stderr.splitlines()[-3:]) or f"exit code {done.returncode}"
        raise DeploykitError(f"{gpu.name} could not be measured", why=why)
    return card_of(gpu, done.stdout, nvcc_version(machine.nvcc))


def card_of(gpu: GPU, answer: str, nvcc: str | None) -> Card:
    """From what the child printed."""
    found = json.loads(answer.splitlines()[-1])
    return Card(
        name=gpu.name,
        device="cuda",
        driver=gpu.driver,
        cuda_driver=gpu.cuda_driver,
        torch_cuda=found["cuda"],
        nvcc=nvcc,
        read_gbytes_per_s=found["read"] / 1e9,
        copy_gbytes_per_s=found["copy"] / 1e9,
        matrix_tflops=found["matrix"] / 1e12,
        source="torch: best of sum, maximum and matrix-vector; copy_; 16-bit mm of three shapes",
    )


def measure_cpu(machine: Machine, threads: int) -> Card:
    """The processor in a card's place: its matrix rate isn't measured."""
    found = ceilings.measure(threads)
    return Card(
        name=machine.cpu.model,
        device="cpu",
        driver=None,
        cuda_driver=None,
        torch_cuda=None,
        nvcc=None,
        read_gbytes_per_s=found.read_gbytes_per_s,
        copy_gbytes_per_s=None,
        matrix_tflops=None,
        source=found.source,
    )


def nvcc_version(path: str | None) -> str | None:
    """`13.0.88` of the nvcc at `path`; None without one, or where it doesn't say."""
    if path is None:
        return None
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=TOOL_TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bV(\d+(?:\.\d+)+)", done.stdout)
    return found[1] if found else None
