"""What is built, where it lies, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LIBRARY = "deploykit_engine"
MODULE = "_deploykit_native"


@dataclass(frozen=True)
class Target:
    """What a library computes on. A CUDA one has the CPU's kernels too; `arch` is CMake's word, such as "90a"."""

    kind: Literal["cpu", "cuda"] = "cpu"
    arch: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "cuda") != bool(self.arch):
            raise ValueError("a CUDA target has an architecture, and the CPU has none")

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.arch}" if self.arch else self.kind


CPU = Target()


def cuda_target(compute_capability: tuple[int, int]) -> Target:
    """The target of a GPU. From 9.0 on it is the generation's own feature set ("90a"), which runs nowhere else."""
    major, minor = compute_capability
    return Target("cuda", f"{major}{minor}" + ("a" if major >= 9 else ""))


@dataclass(frozen=True)
class Build:
    """A library and its Python module, side by side in one folder."""

    target: Target
    folder: Path
    module: Path
    library: Path
    key: str  # of the cache; "" for a prebuilt one
    origin: Literal["built", "prebuilt"]
    log: Path | None = None


@dataclass(frozen=True)
class Progress:
    """One step of a build. `done` and `total` count compilations, and are 0 where there is nothing to count."""

    phase: Literal["wait", "configure", "compile", "check", "note"]
    text: str
    done: int = 0
    total: int = 0


Report = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """A report that nobody listens to."""
