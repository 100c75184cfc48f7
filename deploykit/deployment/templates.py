"""The chat template of a deployment: the recipe's choice against what the checkpoint brings and is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import exists, member, open_regular, read_json, read_text
from deploykit.prompt.templates.fields import ChatTemplateConfig
from deploykit.prompt.templates.resolve import DEFAULT, Choice, ModelClues, Resolved, check_choice, resolve

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.recipe import LoadedRecipe
    from deploykit.recipe.schema import ChatSection

MAX_TEMPLATE = 4 << 20  # bytes
MAX_TOKENIZER_CONFIG = 64 << 20
MAX_NAMED = 64  # templates of one checkpoint
_ADDITIONAL = "additional_chat_templates"
_GGUF_KEY = "tokenizer.chat_template"
# Stands for the template of a checkpoint that is described: it is there, and nobody has read it.
NOT_HERE = "{{ raise_exception('the checkpoint is described, its chat template is not here') }}"
_MAX_HEADER = 256 << 20  # bytes


def choice_of(chat: ChatSection) -> Choice:
    """A recipe's `chat` section as the decision takes it."""
    given = chat.fields.model_dump(exclude_none=True)
    fields = ChatTemplateConfig(**given) if given else None
    return Choice(template=chat.template, fields=fields, python=chat.python, capability=chat.capability)


def check_template(loaded: LoadedRecipe) -> None:
    """What can be refused of a recipe's choice before a model is looked at. Raises ConfigError."""
    check_choice(choice_of(loaded.recipe.chat))


def choose_template(
    loaded: LoadedRecipe, facts: Facts, tokenizer_json: Callable[[], Path] | None = None
) -> Resolved:
    """The template that the recipe is served with. Raises ConfigError, and CheckpointError for a damaged one.

    `tokenizer_json` gives the file that is looked into for the control tokens of a built-in, where one comes up.
    """
    return resolve(choice_of(loaded.recipe.chat), clues(loaded, facts, tokenizer_json))


def clues(loaded: LoadedRecipe, facts: Facts, tokenizer_json: Callable[[], Path] | None = None) -> ModelClues:
    """What the checkpoint says about its template, and what it is called."""
    metadata = _metadata(facts)
    own, own_from = own_templates(facts, metadata)
    return ModelClues(
        architecture=facts.architecture,
        names=_names(loaded, facts, metadata),
        own=own,
        own_from=own_from,
        has_token=None if tokenizer_json is None else _vocabulary(tokenizer_json),
    )


def _metadata(facts: Facts) -> Mapping[str, Any]:
    """A GGUF file's metadata, where it says more than the facts do; nothing for a folder."""
    if facts.format != "gguf" or facts.origin == "described":
        return {}
    if facts.chat_template is not None and not _names_templates(facts):
        return {}
    from deploykit.checkpoint.gguf import read_header

    return read_header(Path(facts.path)).metadata


def _names_templates(facts: Facts) -> bool:
    """Whether the header holds templates by name: seen in its bytes, which takes a hundredth of reading it."""
    path = Path(facts.path)
    size = min((t.offset for t in facts.tensors if t.file == path.name), default=_MAX_HEADER)
    with open_regular(path) as f:
        return f"{_GGUF_KEY}.".encode() in f.read(min(size, _MAX_HEADER))


def own_templates(facts: Facts, metadata: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The checkpoint's templates by name (the one for plain chat is "default"), and the file that one is from.

    A folder's: chat_template.jinja goes before chat_template.json, and that before tokenizer_config.json, whose
    `chat_template` is a text or a list of named ones; additional_chat_templates/NAME.jinja adds to them. A GGUF's:
    tokenizer.chat_template and tokenizer.chat_template.NAME. Of a described checkpoint it is known that there is one.
    """
    if facts.origin == "described":
        file = facts.chat_template_from
        return ({}, "") if file is None else ({DEFAULT: NOT_HERE}, file)
    path = Path(facts.path)
    if path.is_dir():
        return _of_folder(path)
    found = {} if facts.chat_template is None else {DEFAULT: facts.chat_template}
    for key, value in metadata.items():
        if key.startswith(f"{_GGUF_KEY}.") and isinstance(value, str):
            found[key.removeprefix(f"{_GGUF_KEY}.")] = _sane(value, path, key)
    return found, f"{path.name}, {_GGUF_KEY}"


def _of_folder(folder: Path) -> tuple[dict[str, str], str]:
    found: dict[str, str] = {}
    where = ""
    for name in ("tokenizer_config.json", "chat_template.json"):
        if not exists(folder, name):
            continue
        file = member(folder, name)
        value: Any = read_json(file, MAX_TOKENIZER_CONFIG).get("chat_template")
        if value is None:
            continue
        if isinstance(value, list):
            named = {t["name"]: t.get("template") for t in value if isinstance(t, dict) and "name" in t}
            found |= {str(k): _sane(v, file, f"chat_template {k}") for k, v in named.items()}
        else:
            found[DEFAULT] = _sane(value, file, "chat_template")
        where = name
    if exists(folder, "chat_template.jinja"):
        where = "chat_template.jinja"
        found[DEFAULT] = read_text(member(folder, where), MAX_TEMPLATE)
    for file in _additional(folder):
        found[file.stem] = read_text(file, MAX_TEMPLATE)
    return found, where


def _additional(folder: Path) -> list[Path]:
    inside = folder / _ADDITIONAL
    if not inside.is_dir():
        return []
    # As for `member`: Hugging Face's cache keeps links into the blobs of the same repository.
    border = folder.resolve()
    if border.parent.name == "snapshots" and border.parent.parent.name.startswith("models--"):
        border = border.parent.parent
    files = sorted(inside.glob("*.jinja"))[:MAX_NAMED]
    for file in files:
        if not file.resolve().is_relative_to(border):
            raise CheckpointError(
                "a chat template is a symbolic link that leads out of its folder", file=file
            )
    return files


def _sane(value: Any, file: Path, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEMPLATE:
        raise CheckpointError(f"{printable(what)} isn't text of a sane length", file=file)
    return value


def _names(loaded: LoadedRecipe, facts: Facts, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """What the model is called: where it comes from, its file or folder, and what it says itself."""
    model = loaded.recipe.model
    found: list[str] = []
    if model.id is not None:
        found.append(model.id)
    for source in model.sources or ():
        found += [
            str(value)
            for key in ("hf", "modelscope", "pypi", "file")
            if (value := getattr(source, key, None))
        ]
    path = Path(facts.path)
    if not _is_commit(path.name) and facts.origin != "described":
        found.append(path.name if path.is_dir() else path.stem)
    said = facts.config.get("_name_or_path")
    if isinstance(said, str) and said:
        found.append(os.path.basename(said.rstrip("/")))  # noqa: PTH119 - a text, no path of this machine
    parts = [metadata.get(f"general.{key}") for key in ("name", "basename", "finetune")]
    found += [part for part in (parts[0], parts[1]) if isinstance(part, str)]
    if all(isinstance(part, str) for part in parts[1:]):
        found.append(f"{parts[1]}-{parts[2]}")
    found.append(loaded.name)
    return tuple(dict.fromkeys(name[:200] for name in found))


def _is_commit(name: str) -> bool:
    return len(name) == 40 and all(c in "0123456789abcdef" for c in name)


def _vocabulary(tokenizer_json: Callable[[], Path]) -> Callable[[str], bool]:
    loaded: list[Any] = []

    def has(token: str) -> bool:
        if not loaded:
            from deploykit.checkpoint.tokenizer import load_tokenizer

            loaded.append(load_tokenizer(tokenizer_json()))
        return loaded[0].token_to_id(token) is not None

    return has
