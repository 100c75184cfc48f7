"""The native library: compiled from native/ into the cache, and found there again."""

from deploykit.build.load import load
from deploykit.build.make import build, ensure, locate
from deploykit.build.problem import problem
from deploykit.build.types import CPU, Build, Progress, Report, Target, cuda_target

__all__ = [
    "CPU",
    "Build",
    "Progress",
    "Report",
    "Target",
    "build",
    "cuda_target",
    "ensure",
    "load",
    "locate",
    "problem",
]
