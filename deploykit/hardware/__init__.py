"""Probes: CPU, memory, GPUs, disk and toolchain, as one `Machine`."""

from deploykit.hardware.machine import CPU, GPU, Machine
from deploykit.hardware.probe import probe

__all__ = ["CPU", "GPU", "Machine", "probe"]
