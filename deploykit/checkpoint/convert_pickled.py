"""`.bin` and `.pth` made into safetensors: in a confined child process, staged beside the target, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint import meta_llama, safetensors
from deploykit.checkpoint.config import without_code
from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import member, open_regular, read_json
from deploykit.checkpoint.pickled import BIN_INDEX, Pickled, recognise
from deploykit.checkpoint.safetensors_write import disk_full, is_full
from deploykit.errors import ConfigError, DeploykitError
from deploykit.fsutil import write_atomic
from deploykit.hub.disk import RESERVE, free_bytes

MAX_SIDE_FILE = 256 << 20
_SIDE_SUFFIXES = (".json", ".txt", ".model", ".tiktoken", ".jinja", ".md")
_SIDE_NAMES = ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY")
_NOT_COPIED = (BIN_INDEX, "params.json", "checklist.chk", safetensors.INDEX)
_SECONDS, _SECONDS_PER_GIB = 600, 120  # what the child may take
_LINE = 64 << 20
Progress = Callable[[int, int], None]  # bytes done, bytes in all


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    layout: str  # huggingface | meta
    tensors: int
    bytes: int
    limits: list[str]  # what held the child
    seconds: float


def default_out(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-safetensors")


def convert_pickled(
    folder: Path,
    out: Path | None = None,
    *,
    timeout: float | None = None,
    context: int | None = None,
    progress: Progress = lambda done, total: None,
) -> Converted:
    """Convert a folder; `out` must not exist, and appears whole or not at all.

    `timeout` in seconds, by the size where it is None; `context` is the trained length where Meta's params.json
    doesn't say it. Raises CheckpointError for what is no model or holds more than tensors, DeploykitError otherwise.
    """
    began = time.monotonic()
    folder = folder.expanduser().resolve()
    source = recognise(folder)
    out = (default_out(folder) if out is None else out.expanduser()).absolute()
    if os.path.lexists(out):
        fix = f"`deploykit up {out}` if it is what you want; else remove it, or name another folder"
        raise ConfigError("the output folder is there already", where=str(out), fix=fix)
    params = meta_llama.read_params(folder) if source.layout == "meta" else None
    config = None if params else without_code(read_json(member(folder, "config.json")))
    out.parent.mkdir(parents=True, exist_ok=True)
    _require_space(out, source.nbytes)
    with _stage(out) as stage:
        limit = timeout or _SECONDS + _SECONDS_PER_GIB * source.nbytes / (1 << 30)
        found = _run_child(source, params, stage, limit, out, progress)
        try:
            _copy_beside(folder, stage)
            if params is not None:
                config = meta_llama.make_config(
                    params,
                    vocab=found["vocab"],
                    inner=found["inner"],
                    dtype=found["dtype"],
                    tied=found["tied"],
                    context=context,
                )
            write_atomic(stage / "config.json", json.dumps(config, indent=2).encode() + b"\n")
        except OSError as error:
            raise (disk_full(out, source.nbytes, error) if is_full(error) else error) from None
        safetensors.read_folder(stage)  # what was written is proven like any other checkpoint
        _publish(stage, out)
    return Converted(
        path=str(out),
        layout=source.layout,
        tensors=found["tensors"],
        bytes=found["bytes"],
        limits=found["limits"],
        seconds=time.monotonic() - began,
    )


# ---------------------------------------------------------------- the folder


def _require_space(out: Path, nbytes: int) -> None:
    if free_bytes(out.parent) < nbytes + RESERVE:
        raise disk_full(out, nbytes + RESERVE, OSError(0, f"of which {RESERVE >> 20} MiB stay free"))


@contextlib.contextmanager
def _stage(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, locked; removed unless it was renamed. One that a killed process left is reused."""
    stage = out.with_name(f".{out.name}.partial")
    with contextlib.suppress(FileExistsError):
        stage.mkdir(mode=0o755)
    fd = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why, fix = "another process is converting into it", "wait for it"
            raise DeploykitError(
                "the output folder is being made", where=str(out), why=why, fix=fix
            ) from None
        for left in stage.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
        try:
            yield stage
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
    finally:
        os.close(fd)


def _publish(stage: Path, out: Path) -> None:
    for file in stage.iterdir():
        with open(file, "rb") as f:
            os.fsync(f.fileno())
    if os.path.lexists(out):  # made by somebody else meanwhile
        raise ConfigError("the output folder is there already", where=str(out))
    stage.rename(out)
    fd = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy_beside(folder: Path, stage: Path) -> None:
    """Tokenizer, templates and texts; nothing that could be run."""
    for path in sorted(folder.iterdir()):
        name = path.name
        wanted = name.endswith(_SIDE_SUFFIXES) or name.startswith(_SIDE_NAMES)
        if not wanted or name in _NOT_COPIED or name == "config.json" or not path.is_file():
            continue
        with open_regular(member(folder, name)) as source:
            if os.fstat(source.fileno()).st_size > MAX_SIDE_FILE:
                raise CheckpointError(f"the file is over the limit of {MAX_SIDE_FILE} bytes", file=path)
            with open(stage / name, "wb") as target:
                shutil.copyfileobj(source, target)


# ---------------------------------------------------------------- the child


def _run_child(
    source: Pickled,
    params: meta_llama.Params | None,
    stage: Path,
    limit: float,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    sizes = {}
    if params is not None:
        names = ("hidden", "heads", "kv_heads", "head_dim")
        sizes = {name: getattr(params, name) for name in names}
    job = {
        "layout": source.layout,
        "files": [str(f.resolve()) for f in source.files],
        "out": str(stage),
        "nbytes": source.nbytes,
        "seconds": int(limit) + 60,
        "parent": os.getpid(),
        "params": sizes,
    }
    command = [sys.executable, "-B", "-m", "deploykit.checkpoint.unpickle"]
    keep = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "SYSTEMROOT")
    env = {key: os.environ[key] for key in keep if key in os.environ}
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**env, "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1"},
        start_new_session=True,
    )
    try:
        last, errors = _follow(child, json.dumps(job).encode(), time.monotonic() + limit, progress)
        if last is None:
            why = f"it took longer than {limit:.0f} seconds"
            fix = "allow more with --timeout"
            raise DeploykitError("the conversion was stopped", where=str(source.folder), why=why, fix=fix)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
    return _result(last, errors, source, child.returncode, out)


def _follow(
    child: subprocess.Popen[bytes], job: bytes, deadline: float, progress: Progress
) -> tuple[dict[str, Any] | None, str]:
    """(the child's last word, the end of its stderr); the word is None where time ran out."""
    if child.stdin is None or child.stdout is None or child.stderr is None:
        raise ValueError("all three are pipes")
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(job)
        child.stdin.close()
    buffers = {child.stdout.fileno(): b"", child.stderr.fileno(): b""}
    last: dict[str, Any] = {}
    with selectors.DefaultSelector() as selector:
        for fd in buffers:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return None, ""
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                    continue
                buffers[key.fd] += data
                if key.fd == child.stderr.fileno():
                    buffers[key.fd] = buffers[key.fd][-4096:]
                    continue
                *lines, buffers[key.fd] = buffers[key.fd].split(b"\n")
                if len(buffers[key.fd]) > _LINE:
                    return last, "its messages are too long"
                for line in lines:
                    with contextlib.suppress(ValueError):
                        last = json.loads(line)
                        if last.get("event") == "progress":
                            progress(last["done"], last["total"])
    return last, buffers[child.stderr.fileno()].decode(errors="replace")


def _result(last: dict[str, Any], errors: str, source: Pickled, code: int, out: Path) -> dict[str, Any]:
    event = last.get("event")
    if event == "done":
        _check_index(source, last)
        return last
    if event == "refused":
        fix = "take a revision of the model that has .safetensors files"
        raise CheckpointError(
            last["what"], file=last["file"] or source.folder, tensor=last["tensor"], why=last["why"], fix=fix
        )
    if event == "failed":
        error = OSError(last["errno"], last["why"])
        if is_full(error):
            raise disk_full(out, source.nbytes, error)
        raise DeploykitError("the weights can't be converted", where=str(source.folder), why=last["why"])
    tail = printable(errors.strip().splitlines()[-1], 200) if errors.strip() else f"it ended with {code}"
    raise DeploykitError(
        "the process that reads the weights ended without a result",
        where=str(source.folder),
        why=tail,
        fix="the file may be damaged: fetch it again",
    )


def _check_index(source: Pickled, last: dict[str, Any]) -> None:
    if source.weight_map is None or len(source.files) < 2:
        return
    missing = next(iter(set(source.weight_map) - set(last["names"])), None)
    if missing is not None:
        why = f"{BIN_INDEX} names it, and no file holds it"
        raise CheckpointError("a tensor of the model is missing", file=source.folder, tensor=missing, why=why)
