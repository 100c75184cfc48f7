"""Files that `init` and `cp` write: where they go, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.shipped.flatten import Flat


def destination(dest: str | None, name: str) -> Path:
    """The file that is meant. Raises ConfigError for a name that no recipe has."""
    target = Path(os.path.expanduser(dest or f"{name}.yaml"))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    if target.is_dir() or (dest or "").endswith("/"):
        target = target / f"{name}.yaml"
    if target.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(
            f"{target} is no name for a recipe", why="a recipe's file ends in .yaml", fix=f"{target}.yaml"
        )
    return target


def plain(path: Path) -> str:
    """An absolute path as recipes are given it: symlinks are kept."""
    return os.path.abspath(path)  # noqa: PTH100


def place(path: Path, data: bytes, *, replace: bool) -> None:
    """Write a file whole or not at all; without `replace` one that has come to be there meanwhile stays."""
    from deploykit.fsutil import write_atomic

    if replace:
        write_atomic(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}.partial")
    write_atomic(staged, data)
    try:
        os.link(staged, path)  # fails where there is something, which a rename would replace
    except FileExistsError:
        raise ConfigError(f"{path} is there already", fix="give another name") from None
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise ConfigError(f"{path} is there already", fix="give another name") from None
        os.replace(staged, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            staged.unlink()


def beside(flat: Flat, source: Path, target: Path) -> dict[Path, bytes]:
    """Files that a recipe names, as they are to lie beside its copy."""
    return {target.parent / file: (source.parent / file).read_bytes() for file in flat.files}


def refuse_taken(target: Path, files: Mapping[Path, bytes], fix: str) -> None:
    """Raises ConfigError where something would be overwritten; files of the same content are welcome."""
    taken = [target] if os.path.lexists(target) else []
    taken += [
        f for f, data in files.items() if os.path.lexists(f) and not (f.is_file() and f.read_bytes() == data)
    ]
    if taken:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise ConfigError(f"{taken[0]} is there already{more}", fix=fix)
