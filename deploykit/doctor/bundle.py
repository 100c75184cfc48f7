"""The report that is passed on: everything that was found, in one text without credentials, names and home folders."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploykit.doctor.redact import MASK, is_secret_name, this_machine
from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.doctor.run import Report
    from deploykit.recipe import LoadedRecipe

# Variables that decide how deploykit and what it stands on behave.
_PREFIXES = (
    "DEPLOYKIT_", "HF_", "HUGGING_FACE_", "TRANSFORMERS_", "MODELSCOPE_", "CUDA_", "NVIDIA_", "NCCL_", "TORCH",
    "PYTORCH_", "TRITON_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "LC_", "PYTHON", "CONDA_", "ASCEND_", "ROCM_",
    "HIP_",
)  # fmt: skip
_NAMES = (
    "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
    "CC", "CXX", "CXXFLAGS", "LDFLAGS", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE",
    "SHELL", "TERM", "VIRTUAL_ENV",
)  # fmt: skip
_PACKAGES = (
    "deploykit", "torch", "transformers", "triton", "tokenizers", "safetensors", "numpy", "huggingface-hub",
    "modelscope-hub", "nvidia-ml-py", "nvidia-nccl-cu13", "nvidia-nccl-cu12", "nvidia-cublas", "nvidia-cublas-cu12",
    "starlette", "uvicorn", "httpx", "pydantic", "msgspec", "pybind11", "cmake", "ninja",
)  # fmt: skip


def check_free(path: Path) -> None:
    """Raises ConfigError where a report can't be written to `path`, or would take the place of a file."""
    if path.exists() or path.is_symlink():
        raise _exists(path)
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}", where="--report", fix="make it, or name another file"
        )
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} can't be written", where="--report", fix="name a file in another folder")


def _exists(path: Path) -> ConfigError:
    why = "a report never takes the place of a file"
    return ConfigError(
        f"{path} is there already", where="--report", why=why, fix="name another file, or remove it"
    )


def write_report(
    report: Report,
    path: Path,
    *,
    given: LoadedRecipe | None = None,
    environ: Mapping[str, str] | None = None,
    redact: Callable[[str], str] | None = None,
) -> None:
    """The whole report or nothing, readable by its owner alone. Raises ConfigError where `path` is there already."""
    check_free(path)
    text = render(report, given=given, environ=environ, redact=redact)
    path = path.absolute()
    fd, made = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _place(Path(made), path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)


def _place(made: Path, path: Path) -> None:
    """Give the finished file its name, unless something has it by now."""
    try:
        os.link(made, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a disk without hard links
        if path.exists():
            raise _exists(path) from None
        os.replace(made, path)


def render(
    report: Report,
    *,
    given: LoadedRecipe | None = None,
    environ: Mapping[str, str] | None = None,
    redact: Callable[[str], str] | None = None,
) -> str:
    """The report in Markdown, masked. `environ` and `redact` are for tests."""
    env = dict(os.environ) if environ is None else environ
    mask = redact or this_machine(env)
    return mask("\n".join(_lines(report, given, env))) + "\n"


def _lines(report: Report, given: LoadedRecipe | None, env: Mapping[str, str]) -> Iterator[str]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield "# deploykit doctor report"
    yield ""
    yield f"deploykit {report.version}, {now}, verdict: {report.status}, took {report.took_ms / 1e3:.1f} s"
    yield "Credentials, user names, home folders and the machine's name are masked."
    yield from _block("Checks", _checks(report))
    yield from _block("Recipes on this machine", _recipes(report))
    if given is not None:
        yield from _block(f"Recipe {given.name}", _recipe(given))
    yield from _block("Machine", _json(report.machine))
    if report.gpus.gpus:
        yield from _block("GPUs", _json(report.gpus))
    yield from _block("Packages", _packages())
    yield from _block("Environment", _environment(env))


def _block(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield f"\n## {title}\n\n```text"
    yield from (line.replace("```", "'''") for line in lines)
    yield "```"


def _checks(report: Report) -> Iterator[str]:
    category = None
    for check in report.checks:
        if check.category != category:
            category = check.category
            yield f"[{category}]"
        yield f"{check.status:<4}  {check.id:<16}  {check.found}  ({check.took_ms:.0f} ms)"
        for label, text in (("why", check.why), ("fix", check.fix)):
            if text and check.status in ("warn", "fail"):
                yield f"{'':<24}{label}: {text}"
        yield from (f"{'':<24}{line}" for line in check.details)


def _recipes(report: Report) -> Iterator[str]:
    for row in report.recipes:
        room = f"{row.session_len} x {row.sessions}" if row.sessions is not None else "-"
        engine = f"{row.engine} on {row.device}" if row.engine else "-"
        variants = ", ".join(f"{v.name}: {v.fits}" for v in row.variants)
        yield f"{row.recipe:<32}  {row.fits:<11}  {engine:<16}  {room:<14}  {variants}  {row.why}".rstrip()
    if not report.recipes:
        yield "none"


def _recipe(given: LoadedRecipe) -> Iterator[str]:
    """What was merged from its files, without what was set by default."""
    data = given.recipe.model_dump(mode="json", exclude_unset=True)
    yield from _json(data)


def _packages() -> Iterator[str]:
    yield f"python {platform.python_version()} {platform.python_implementation()} {platform.platform()}"
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def _environment(env: Mapping[str, str]) -> Iterator[str]:
    """What of the environment matters here; a secret's presence is told, never its value."""
    for name in sorted(env):
        if name.upper().startswith(_PREFIXES) or name.upper() in _NAMES:
            yield f"{name}={MASK if is_secret_name(name) and env[name] else env[name]}"


def _json(data: object) -> Iterator[str]:
    yield from msgspec.json.format(msgspec.json.encode(data), indent=2).decode().splitlines()
