"""The process that reads pickled weights: tensors alone, confined, and gone when it is done.

    python -m deploykit.checkpoint.unpickle < job.json

The one place where torch.load stands. It writes safetensors into the job's folder and JSON lines to stdout:
`progress` {done, total}, then `done` {…}, `refused` {what, file, tensor, why} or `failed` {errno, why}. Only
`convert_pickled.py` starts it.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint.confine import confine, die_with_parent
from deploykit.checkpoint.errors import CheckpointError, printable

_MAX_TENSORS = 1 << 20
_MAX_PICKLE = 64 << 20  # bytes; that of a model of ten thousand tensors has about one million
_SLACK = 1 << 30  # of address space beside the mapped files and what is built from them


class Job(msgspec.Struct, frozen=True):
    """`files` are absolute, and of Meta's layout in the order of their ranks."""

    layout: str  # huggingface | meta
    files: list[str]
    out: str
    nbytes: int  # of all files
    seconds: int
    parent: int
    params: dict[str, int] = {}  # of Meta's layout: hidden, heads, kv_heads, head_dim


def main() -> int:
    job = msgspec.json.decode(sys.stdin.buffer.read(64 << 20), type=Job)
    die_with_parent(job.parent)
    import torch
    import torch._weights_only_unpickler  # now: reading is limited afterwards

    from deploykit.checkpoint import unpickle_meta

    torch.set_num_threads(1)
    files = [Path(f) for f in job.files]
    code = (sys.prefix, sys.base_prefix, Path(torch.__file__).parent, Path(__file__).parents[1])
    largest = max((f.stat().st_size for f in files), default=0)
    limits = confine(
        read=[*(Path(p).resolve() for p in code), *files, Path("/proc/self"), Path("/dev/urandom")],
        write=Path(job.out),
        # what is mapped, once more for what is merged or made contiguous, and a file that can't be mapped
        address_space=job.nbytes + 2 * largest + _SLACK,
        file_size=2 * job.nbytes + (64 << 20),
        seconds=job.seconds,
    )
    out = Path(job.out)
    try:
        if job.layout == "meta":
            parts = [load(path) for path in files]
            done = unpickle_meta.merge(files, parts, job.params, job.nbytes, out, say)
        else:
            done = convert(files, job.nbytes, out)
    except CheckpointError as error:
        say("refused", what=error.what, file=error.file, tensor=error.tensor, why=error.why)
        return 1
    except MemoryError:
        what = "the file asks for more memory than its size allows"
        say("refused", what=what, file=None, tensor=None, why=None)
        return 1
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        say("failed", errno=error.errno or 0, why=f"{error.strerror or error}{place}")
        return 1
    say("done", limits=limits, **done)
    return 0


def say(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def convert(files: list[Path], nbytes: int, out: Path) -> dict[str, Any]:
    """Hugging Face's layout: each file becomes one of safetensors. `nbytes` of all files."""
    from deploykit.checkpoint.unpickle_write import DTYPES, Writer, shard_name, size_of, write_index

    writer = Writer(out, nbytes, say)
    weight_map: dict[str, str] = {}
    total = 0
    for index, path in enumerate(files):
        tensors = load(path)
        if len(weight_map) + len(tensors) > _MAX_TENSORS:
            raise CheckpointError(f"the model has more than {_MAX_TENSORS} tensors", file=path)
        twice = next((name for name in tensors if name in weight_map), None)
        if twice is not None:
            raise CheckpointError("two files hold the same tensor", file=path, tensor=twice)
        shapes = {n: (DTYPES[str(t.dtype)], tuple(t.shape), size_of(t)) for n, t in tensors.items()}
        file = shard_name(index, len(files))
        writer.write(file, tensors.items(), shapes)
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(size for _, _, size in shapes.values())
    if len(files) > 1:
        write_index(out, weight_map, total)
    return {"tensors": len(weight_map), "bytes": total, "names": list(weight_map) if len(files) > 1 else []}


# ---------------------------------------------------------------- reading


def load(path: Path) -> dict[str, Any]:
    """name -> tensor of one file. Raises CheckpointError for everything that is not a plain table of tensors."""
    import torch

    with open(path, "rb") as f:
        mapped = f.read(4) == b"PK\x03\x04"  # torch's older format can't be mapped
    try:
        if mapped:
            _check_archive(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (MemoryError, CheckpointError):
        raise
    except OSError as error:
        raise CheckpointError("the file can't be read", file=path, why=str(error)) from None
    except Exception as error:
        raise _refusal(path, error) from None
    for key in ("state_dict", "model"):  # as trainers wrap it
        if isinstance(value, dict) and isinstance(value.get(key), dict) and len(value) <= 8:
            value = value[key]
    if not isinstance(value, dict) or not value:
        why = f"it holds {type(value).__name__}"
        raise CheckpointError("the file holds no table of tensors", file=path, why=why)
    for name, tensor in value.items():
        _check(path, name, tensor)
    return value


def _check_archive(path: Path) -> None:
    """torch stores its records as they are: a compressed one could unpack to any size."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if len(records) > 2 * _MAX_TENSORS:
        raise CheckpointError("the archive holds too many records", file=path, why=f"{len(records)}")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            why = f"{printable(record.filename)} unpacks to {record.file_size} bytes"
            raise CheckpointError("the archive is compressed, which torch never does", file=path, why=why)
        if record.filename.endswith("/data.pkl") and record.file_size > _MAX_PICKLE:
            why = f"{record.file_size} bytes, the limit is {_MAX_PICKLE}"
            raise CheckpointError("the pickle in the archive is too large", file=path, why=why)


def _refusal(path: Path, error: Exception) -> CheckpointError:
    """torch's error in a line: what the pickle asked for, or where the file is damaged."""
    text = " ".join(str(error).split())
    _, found, rest = text.partition("GLOBAL ")
    if found:
        why = f"it asks for {printable(rest.split(' ')[0], 80)}, which was not run"
        return CheckpointError("the pickle holds something else than tensors", file=path, why=why)
    if type(error).__name__ == "UnpicklingError":
        inner = text.split("WeightsUnpickler error:")[-1].strip()
        what = "the pickle holds something else than tensors"
        return CheckpointError(what, file=path, why=printable(inner, 200))
    if "memory" in text.lower() and "alloc" in text.lower():
        return CheckpointError("the file asks for more memory than its size allows", file=path)
    return CheckpointError("the file is damaged", file=path, why=printable(text, 200))


def _check(path: Path, name: Any, tensor: Any) -> None:
    import torch

    from deploykit.checkpoint.unpickle_write import DTYPES, size_of

    if not isinstance(name, str) or not name or len(name) > 512 or not name.isprintable():
        raise CheckpointError("a name in the file isn't plain text", file=path, why=printable(repr(name)))
    if name == "__metadata__":
        what = "a tensor has a name that safetensors keeps for itself"
        raise CheckpointError(what, file=path, tensor=name)
    if not isinstance(tensor, torch.Tensor):
        why = f"it is {printable(type(tensor).__name__)}"
        raise CheckpointError("a value is not a tensor", file=path, tensor=name, why=why)
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or str(tensor.dtype) not in DTYPES:
        why = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
        raise CheckpointError("a tensor is of a kind that isn't supported", file=path, tensor=name, why=why)
    if size_of(tensor) > tensor.untyped_storage().nbytes():
        stored = tensor.untyped_storage().nbytes()
        why = f"its shape is {tuple(tensor.shape)}, and {stored} bytes are stored"
        raise CheckpointError("a tensor claims more than the file holds", file=path, tensor=name, why=why)


if __name__ == "__main__":
    sys.exit(main())
