"""Which files of a repository make a model. Names come from a stranger: what isn't a plain file name is never taken."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploykit.errors import DeploykitError
from deploykit.hub.pins import pinned_of
from deploykit.hub.split import parts_of
from deploykit.hub.types import PinnedFile, RepoRef

_NAME = re.compile(r"[\w+@=-][\w.+@=-]{0,250}", re.ASCII)  # no glob characters, no folders, nothing hidden
_WANTED = re.compile(
    r".*\.(?:safetensors|json|jinja|model|tiktoken)|tokenizer\.model\.v\d+|merges\.txt|vocab\.txt|vocab\.bpe"
)
# The one folder that is looked into: named templates, which tokenizer files of today keep beside the plain one.
_TEMPLATE = re.compile(r"additional_chat_templates/[\w+@=-][\w.+@=-]{0,100}\.jinja", re.ASCII)
_MAX_TEMPLATES = 64
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLE = re.compile(r".*\.(?:bin|pth|pt)")
_NOT_WEIGHTS = re.compile(
    r"(?:training_args|optimizer|scheduler|scaler|rng_state.*|random_states.*)\.(?:bin|pth?)"
)


def choose(ref: RepoRef, files: Sequence[PinnedFile]) -> tuple[PinnedFile, ...]:
    """The files that are fetched for `ref`, in the order of their size: what is small is there soon.

    Of a whole model: safetensors, JSON, tokenizer and template files of its top folder, and the templates of
    `additional_chat_templates/`; with `allow_bin` also .bin, .pth and .pt. Where files are pinned: those. Raises
    DeploykitError where there is nothing to serve, with what there is instead.
    """
    if ref.pinned:
        of_ref = parts_of(ref.file or "") or (ref.file,)
        wanted = (
            f for f in files if f.name in of_ref or _NAME.fullmatch(f.name) or _TEMPLATE.fullmatch(f.name)
        )
        return tuple(sorted(pinned_of(ref.pinned, wanted, str(ref)), key=lambda f: (f.size or 0, f.name)))
    if ref.file is not None:
        return _single(ref, files)
    plain = {f.name: f for f in files if _NAME.fullmatch(f.name)}  # a name that is listed twice counts once
    chosen = tuple(f for f in plain.values() if _WANTED.fullmatch(f.name))
    # A copy of the weights in another layout (consolidated.safetensors) isn't fetched beside them.
    chosen = tuple(f for f in chosen if not f.name.endswith(".safetensors") or _WEIGHTS.fullmatch(f.name))
    if ref.allow_bin:
        chosen += tuple(f for f in plain.values() if _is_pickle(f.name))
    if not any(_WEIGHTS.fullmatch(f.name) or _is_pickle(f.name) for f in chosen):
        raise _no_weights(ref, files)
    templates = {f.name: f for f in files if _TEMPLATE.fullmatch(f.name)}
    chosen += tuple(templates[name] for name in sorted(templates)[:_MAX_TEMPLATES])
    return tuple(sorted(chosen, key=lambda f: (f.size or 0, f.name)))


def _single(ref: RepoRef, files: Sequence[PinnedFile]) -> tuple[PinnedFile, ...]:
    """The file that is asked for; of a model in parts the first is asked for, and all are taken."""
    there = {f.name: f for f in files}
    names = parts_of(ref.file) if ref.file else ()
    if names and ref.file != names[0]:
        what = f"{ref.file} is one part of a model, and not the first"
        raise DeploykitError(what, where=str(ref), fix=f"name the first: {names[0]}")
    wanted = names or (ref.file or "",)
    missing = [name for name in wanted if name not in there]
    if missing:
        why = "it has " + (", ".join(_ggufs(files)) or "no .gguf files")
        raise DeploykitError(f"the repository has no file {missing[0]}", where=str(ref), why=why)
    return tuple(there[name] for name in wanted)


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
