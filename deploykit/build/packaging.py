"""What pyproject.toml can't say: a wheel carries the C++ sources as deploykit/_native_src/, an sdist as native/.

Named by `[tool.setuptools.cmdclass]`; setuptools loads this file by itself, so it imports nothing of deploykit.
Nothing is compiled.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

SOURCES = Path("native")
_NOT_OF_THE_LIBRARY = {"tests", "bench"}


class BuildPy(build_py):
    """`build_py` that copies native/ too, tests and benchmarks aside. An editable install finds it where it is."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "deploykit" / "_native_src"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(SOURCES, target, ignore=_ignored)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        target = Path(self.build_lib) / "deploykit" / "_native_src"
        return [
            *super().get_outputs(include_bytecode),
            *(str(f) for f in target.rglob("*") if f.is_file()),
        ]


class Sdist(sdist):
    """`sdist` with native/, whole."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        shutil.copytree(SOURCES, Path(base_dir) / SOURCES, dirs_exist_ok=True)


def _ignored(folder: str, names: list[str]) -> set[str]:
    top = Path(folder) == SOURCES
    return {n for n in names if n.startswith((".", "__")) or (top and n in _NOT_OF_THE_LIBRARY)}
