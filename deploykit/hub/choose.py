"""Which files of a repository make a model. Names come from a stranger: what isn't a plain file name is never taken."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploykit.errors import DeploykitError
from deploykit.hub.types import PinnedFile, RepoRef

_NAME = re.compile(r"[\w+@=-][\w.+@=-]{0,250}", re.ASCII)  # no glob characters, no folders, nothing hidden
_WANTED = re.compile(
    r".*\.(?:safetensors|json|jinja|model|tiktoken)|tokenizer\.model\.v\d+|merges\.txt|vocab\.txt|vocab\.bpe"
)
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLE = re.compile(r".*\.(?:bin|pth|pt)")
_NOT_WEIGHTS = re.compile(
    r"(?:training_args|optimizer|scheduler|scaler|rng_state.*|random_states.*)\.(?:bin|pth?)"
)


def choose(ref: RepoRef, files: Sequence[PinnedFile]) -> tuple[PinnedFile, ...]:
    """The files that are fetched for `ref`, in the order of their size: what is small is there soon.

    Of a whole model: safetensors, JSON, tokenizer and template files of its top folder; with `allow_bin` also .bin,
    .pth and .pt. Raises DeploykitError where there is nothing to serve, with what there is instead.
    """
    if ref.file is not None:
        chosen = tuple(f for f in files if f.name == ref.file)[:1]
        if not chosen:
            why = "it has " + (", ".join(_ggufs(files)) or "no .gguf files")
            raise DeploykitError(f"the repository has no file {ref.file}", where=str(ref), why=why)
        return chosen
    plain = {f.name: f for f in files if _NAME.fullmatch(f.name)}  # a name that is listed twice counts once
    chosen = tuple(f for f in plain.values() if _WANTED.fullmatch(f.name))
    # A copy of the weights in another layout (consolidated.safetensors) isn't fetched beside them.
    chosen = tuple(f for f in chosen if not f.name.endswith(".safetensors") or _WEIGHTS.fullmatch(f.name))
    if ref.allow_bin:
        chosen += tuple(f for f in plain.values() if _is_pickle(f.name))
    if not any(_WEIGHTS.fullmatch(f.name) or _is_pickle(f.name) for f in chosen):
        raise _no_weights(ref, files)
    return tuple(sorted(chosen, key=lambda f: (f.size or 0, f.name)))


def _is_pickle(name: str) -> bool:
    return _PICKLE.fullmatch(name) is not None and _NOT_WEIGHTS.fullmatch(name) is None


def _ggufs(files: Sequence[PinnedFile]) -> list[str]:
    return [f.name for f in files if f.name.endswith(".gguf")][:8]


def _no_weights(ref: RepoRef, files: Sequence[PinnedFile]) -> DeploykitError:
    where = str(ref)
    if ggufs := _ggufs(files):
        fix = f"name one of them: {ref.repo}/{ggufs[0]} as the target, or `file: {ggufs[0]}` in a recipe's source"
        return DeploykitError("the repository holds GGUF files", where=where, why=", ".join(ggufs), fix=fix)
    if any(_is_pickle(f.name) for f in files):
        return DeploykitError(
            "the repository has its weights as pickles only, which can run code when they are loaded",
            where=where,
            fix=f"take a revision with .safetensors files, or: deploykit pull {ref.repo} --allow-bin, "
            "then deploykit convert",
        )
    return DeploykitError("the repository holds no model weights", where=where)
