"""Hugging Face repositories, through huggingface_hub, pinned to one commit and kept as plain files in our own cache.

Fetched are safetensors, JSON, tokenizer and template files of the repository's top folder, or one .gguf file; never
.bin or .py. `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean to huggingface_hub.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from deploykit.errors import DeploykitError
from deploykit.fsutil import file_lock, write_atomic
from deploykit.hub.disk import require_space
from deploykit.hub.staging import folder_bytes, mismatch, sha256_file, sync_folder, watch_growth
from deploykit.hub.types import Fetched, FetchProgress, HfRef, PinnedFile, Report, Resolved

TIMEOUT_S = 5.0  # for an answer of the hub's API: a machine without a network goes on to the next source soon
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\w+@=-][\w.+@=-]*", re.ASCII)  # no glob characters, no folders, nothing hidden
_WANTED = re.compile(r".*\.(safetensors|json|jinja)|tokenizer\.model|merges\.txt|vocab\.txt")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")


class HfSource:
    def __init__(self, ref: HfRef, cache: Path) -> None:
        self.ref = ref
        self.cache = cache
        self.home = cache / "hf" / ref.repo.replace("/", "--")

    # ---- the cache

    def _branch_file(self) -> Path:
        return self.home / "refs" / self.ref.revision.replace("/", "--")

    def _folder(self, commit: str) -> Path:
        """Whole models and single files are kept apart: a folder is complete as soon as it is there."""
        kind = "model" if self.ref.file is None else "files"
        return self.home / kind / commit

    def _fetched(self, commit: str) -> Fetched | None:
        path = self._folder(commit)
        if self.ref.file is not None:
            path = path / PurePosixPath(self.ref.file).name
        if not path.exists():
            return None
        return Fetched(path=path, source=str(self.ref), revision=commit)

    def locate(self) -> Fetched | None:
        if _COMMIT.fullmatch(self.ref.revision):
            return self._fetched(self.ref.revision)
        try:
            commit = self._branch_file().read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return self._fetched(commit) if _COMMIT.fullmatch(commit) else None

    # ---- the hub

    def resolve(self) -> Resolved:
        hub = _library()
        with _explained(self.ref):
            info = hub.HfApi(endpoint=_endpoint()).model_info(
                self.ref.repo, revision=self.ref.revision, files_metadata=True, timeout=TIMEOUT_S
            )
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise DeploykitError("the hub named no commit", where=str(self.ref))
        files = tuple(
            PinnedFile(s.rfilename, s.size, s.lfs.sha256 if s.lfs is not None else None)
            for s in info.siblings or ()
        )
        return Resolved(info.sha, self._choose(files))

    def _choose(self, files: tuple[PinnedFile, ...]) -> tuple[PinnedFile, ...]:
        if self.ref.file is not None:
            chosen = tuple(f for f in files if f.name == self.ref.file)
            if not chosen:
                ggufs = [f.name for f in files if f.name.endswith(".gguf")]
                why = "it has " + (", ".join(ggufs[:8]) or "no .gguf files")
                raise DeploykitError(
                    f"the repository has no file {self.ref.file}", where=str(self.ref), why=why
                )
            return chosen
        chosen = tuple(f for f in files if _NAME.fullmatch(f.name) and _WANTED.fullmatch(f.name))
        if not any(_WEIGHTS.fullmatch(f.name) for f in chosen):
            raise _no_weights(self.ref, files)
        # A copy of the weights in another layout (consolidated.safetensors) isn't fetched beside them.
        return tuple(f for f in chosen if not f.name.endswith(".safetensors") or _WEIGHTS.fullmatch(f.name))

    def fetch(self, report: Report) -> Fetched:
        resolved = self.resolve()
        commit = resolved.revision
        key = f"{self.home.name}-{commit}" + (
            "" if self.ref.file is None else f"-{PurePosixPath(self.ref.file).name}"
        )
        with file_lock(self.cache / "locks" / f"hf-{key}.lock"):
            if self._fetched(commit) is None:
                # Kept when it is interrupted: the next try goes on from it. Nobody looks for models here.
                stage = self.cache / "staging" / f"hf-{key}"
                if resolved.size is not None:
                    require_space(self.cache, max(0, resolved.size - folder_bytes(stage)), what=str(self.ref))
                self._download(stage, resolved, report)
                self._publish(stage, commit)
            if not _COMMIT.fullmatch(self.ref.revision):
                write_atomic(self._branch_file(), commit.encode())
        found = self._fetched(commit)
        if found is None:
            raise DeploykitError("the fetched files have disappeared", where=str(self._folder(commit)))
        return found

    def _download(self, stage: Path, resolved: Resolved, report: Report) -> None:
        hub = _library()
        stage.mkdir(parents=True, exist_ok=True)
        report(FetchProgress(self.ref.repo, 0, resolved.size))
        with _explained(self.ref), watch_growth(stage, self.ref.repo, lambda: resolved.size, report):
            for file in resolved.files:
                # One after the other: the library transfers the parts of a large file side by side by itself, and
                # an interrupt ends a loop at once, which it can't do with a pool of threads.
                hub.hf_hub_download(
                    self.ref.repo,
                    file.name,
                    revision=resolved.revision,
                    local_dir=stage,
                    etag_timeout=TIMEOUT_S,
                    endpoint=_endpoint(),
                )
        for file in resolved.files:
            path = stage / file.name
            if not path.is_file():
                raise DeploykitError(f"{file.name} didn't arrive", where=str(self.ref), fix="try again")
            size = path.stat().st_size
            wrong = file.size is not None and size != file.size
            got = f"{size} bytes instead of {file.size}" if wrong else ""
            if not wrong and file.sha256 is not None:
                got = sha256_file(path)
                wrong = got != file.sha256
            if wrong:
                path.unlink()  # so that the next try fetches it anew
                raise mismatch(file.name, file.sha256 or "unknown", got)
            _sync(path)

    def _publish(self, stage: Path, commit: str) -> None:
        """Rename what was staged into place: the folder of a whole model, or the one file."""
        target = self._folder(commit)
        if self.ref.file is not None:
            target.mkdir(parents=True, exist_ok=True)
            os.replace(stage / self.ref.file, target / PurePosixPath(self.ref.file).name)
            shutil.rmtree(stage, ignore_errors=True)
        else:
            shutil.rmtree(stage / ".cache", ignore_errors=True)  # huggingface_hub's notes on the download
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(stage, target)
        sync_folder(target.parent)


def _library() -> Any:
    import huggingface_hub
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # there is one progress display, and it isn't the library's
    return huggingface_hub


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _sync(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def _no_weights(ref: HfRef, files: tuple[PinnedFile, ...]) -> DeploykitError:
    ggufs = [f.name for f in files if f.name.endswith(".gguf")]
    if ggufs:
        fix = f"name one of them as the source's `file`, such as {ggufs[0]}"
        return DeploykitError(
            "the repository holds GGUF files", where=str(ref), why=", ".join(ggufs[:8]), fix=fix
        )
    if any(f.name.endswith((".bin", ".pt", ".pth")) for f in files):
        return DeploykitError(
            "the repository has its weights as pickles only, which can run code when they are loaded",
            where=str(ref),
            fix="take a revision with .safetensors files, or convert the model where you trust it",
        )
    return DeploykitError("the repository holds no model weights", where=str(ref))


@contextlib.contextmanager
def _explained(ref: HfRef) -> Iterator[None]:
    """Turns huggingface_hub's and its HTTP client's errors into ours; a full disk stays what it is."""
    try:
        yield
    except DeploykitError:
        raise
    except Exception as e:
        if isinstance(e, OSError) and e.errno in _DISK_ERRORS:
            raise
        raise _explain(ref, e) from e


def _explain(ref: HfRef, error: Exception) -> DeploykitError:
    from huggingface_hub import errors

    where = str(ref)
    if isinstance(error, errors.GatedRepoError):
        fix = "accept the model's terms on its page, then set HF_TOKEN"
        return DeploykitError("the repository asks for its terms to be accepted", where=where, fix=fix)
    if isinstance(error, errors.RevisionNotFoundError):
        return DeploykitError(f"the repository has no revision {ref.revision}", where=where)
    if isinstance(error, errors.RepositoryNotFoundError):
        fix = "check the spelling; for a private repository set HF_TOKEN"
        return DeploykitError("there is no such repository, or it is private", where=where, fix=fix)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return DeploykitError("HF_HUB_OFFLINE is set", where=where, fix="unset it to fetch the model")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return DeploykitError(
            f"the hub answered {status}", where=where, why=_first_line(error), fix="try again later"
        )
    return DeploykitError(
        "the hub couldn't be reached",
        where=where,
        why=_first_line(error),
        fix="check the connection or the proxy; HF_ENDPOINT names a mirror",
    )


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:300]
