"""Every code of a diagnostic: what it means, a recipe that has it, and the way out. `deploykit explain` shows them."""

from __future__ import annotations

from typing import NamedTuple

_HEAD = "version: 1\nmodel: {id: Qwen/Qwen3-0.6B}\n"


class Code(NamedTuple):
    """`example` is a recipe that has this error and no other; None where a file that isn't one has it: `command`."""

    title: str
    meaning: str
    fix: str
    example: str | bytes | None = None
    command: str = "deploykit validate recipe.yaml"
    sets: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()


CODES: dict[str, Code] = {
    "unknown-key": Code(
        "a key that the recipe language doesn't have, or not there",
        "Every key is honoured or refused, so that a typing mistake never goes unnoticed. The help says which key was "
        "probably meant, in which section a key belongs, or what another server's name is called here.",
        "Rename the key, move it to its section, or remove it. `deploykit validate --fix` renames what is only "
        "misspelt, and other servers' names for the same thing in the same section.",
        _HEAD + "engine:\n  gpu_memory_utilization: 0.9\n",
    ),
    "missing-key": Code(
        "a key that is required",
        "`version` and `model` are required, a model needs `id`, `path` or `sources`, and a source needs the keys "
        "of its kind. The place shown is the section that lacks the key.",
        "Add the key that the help names.",
        "version: 1\nmodel: {dtype: auto}\n",
    ),
    "wrong-type": Code(
        "a text where a number belongs, a list where a section belongs",
        'Values are taken as YAML 1.2 reads them and never converted: `"2"` is a text, `2.0` isn\'t a whole number, '
        "and only `true` and `false` are booleans. A key with nothing after its colon is null.",
        "Write a value of the type that the message names; quotes make a text, and a list of one is `[value]`.",
        _HEAD + "engine: {tp: two}\n",
    ),
    "out-of-range": Code(
        "a number, or a length, beyond its limits",
        "The value is of the right type and outside of what the key allows; `nan` and `inf` are outside of every "
        "range, and so are whole numbers of more than 64 bits.",
        "Take a value within the range that the message names. A share is written 0.8, not 80.",
        _HEAD + "engine: {cache: {ratio: 80}}\n",
    ),
    "invalid-value": Code(
        "none of the choices, or not of the form that is asked for",
        "The key takes one of a few words, or a text of a certain form: a size, a duration, a hub id, a name.",
        "Take the value that the help proposes, or one of those that the message lists.",
        _HEAD + "engine: {backend: turbomind}\n",
    ),
    "conflict": Code(
        "keys that contradict each other",
        "Each of the keys is right by itself, and together they can't be honoured. All the places are shown, those of "
        "`--set` too.",
        "Change or remove one of them. With `--set`, `KEY=null` takes a key of the file away.",
        _HEAD + "engine:\n  max_batch_size: 256\n  max_prefill_tokens: 128\n",
    ),
    "duplicate-key": Code(
        "a key that stands twice in a section",
        "YAML leaves open which of the two counts, and most readers take the last without a word.",
        "Keep one of them.",
        _HEAD + "engine:\n  tp: 1\n  tp: 2\n",
    ),
    "key-not-text": Code(
        "a number, a list or the like as a key",
        "The keys of a recipe are texts; `1:`, `true:` and `[a]:` are not.",
        "Put the key in quotes if it is meant as a text, or write the key that was meant.",
        _HEAD + "8000: port\n",
    ),
    "yaml-syntax": Code(
        "not readable as YAML",
        "The file can't be read past this place. Most often a quote or a bracket isn't closed, an indentation matches "
        "no section, or the space after a colon is missing.",
        "Put the place in order as the help says; further errors show only then.",
        "version: 1\nmodel: {id: Qwen/Qwen3-0.6B\nname: small\n",
    ),
    "yaml-tab": Code(
        "a line that is indented with a tab",
        "YAML indents with spaces alone.",
        "Replace the tab by spaces, and set the editor to do so in YAML files.",
        "version: 1\nmodel:\n\tid: Qwen/Qwen3-0.6B\n",
    ),
    "yaml-tag": Code(
        "a tag such as `!!python/object`",
        "A recipe holds plain values: texts, numbers, booleans, null, lists and sections. No tag makes an object of "
        "anything. The two that there are say how a value is laid over the one below it: `!append [x]` before a list "
        "and `!reset` before a value of a section.",
        "Remove the tag.",
        _HEAD + "name: !!python/name:os.system x\n",
    ),
    "merge-key": Code(
        "the merge key `<<`",
        "`<<` isn't part of YAML 1.2, and readers disagree about it.",
        "Write the keys out, or let an alias stand for a whole value: `limits: *limits`.",
        _HEAD + "<<: {name: small}\n",
    ),
    "unknown-alias": Code(
        "`*name` without `&name` above it",
        "An alias stands for a value that was named with an anchor further up in the same file.",
        "Write the anchor before its first use, or correct the name.",
        _HEAD + "chat: *defaults\n",
    ),
    "recursive-alias": Code(
        "`*name` inside the value that it names",
        "Such a value would contain itself without end.",
        "Write out what is meant.",
        _HEAD + "chat: &chat {defaults: *chat}\n",
    ),
    "several-documents": Code(
        "more than one YAML document in a file",
        "`---` on a line of its own begins another document; a recipe file is one.",
        "Put each recipe into a file of its own.",
        _HEAD + "---\n" + _HEAD,
    ),
    "too-deep": Code(
        "nested more than 32 levels deep; more than 8 files that extend one another, or 32 variables in a row",
        "No recipe needs that; a file that does isn't one, or was made to exhaust the reader.",
        "Remove the nesting; merge some of the files.",
        _HEAD + "chat: " + "[" * 33 + "]" * 33 + "\n",
    ),
    "too-large": Code(
        "a file over 1 MiB, more than 10,000 values, 32 files or 32 profiles",
        "Aliases are counted written out, and files with all that they extend, so that a small file can't grow without "
        "bounds.",
        "Make the recipe smaller.",
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        "b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\n"
        "d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n",
    ),
    "not-text": Code(
        "a control character",
        "Characters that a terminal acts on, or that no file name may have, can't stand in a recipe as they are.",
        'Remove the character, or write it as an escape in a text in double quotes: `"\\e"`.',
        _HEAD + "description: a\x1bb\n",
    ),
    "not-utf8": Code(
        "bytes that aren't UTF-8",
        "Recipes are UTF-8. The file has another encoding, or isn't a text at all.",
        "Save it as UTF-8.",
        _HEAD.encode() + b"description: caf\xe9\n",
    ),
    "empty-recipe": Code(
        "nothing in the file",
        "The file is empty, or has comments alone.",
        "Begin with `version: 1` and a `model:` section.",
        "# to be written\n",
    ),
    "not-a-recipe": Code(
        "something else than a section of keys",
        "A recipe is a section of keys at the top level; this file is a list, or a single text.",
        "Begin with `version: 1` and a `model:` section.",
        "- version: 1\n",
    ),
    "extends-cycle": Code(
        "a recipe that extends itself",
        "Of the files that extend one another, one extends the first again: no one of them could be the lowest. The "
        "place shown is the entry of `extends` that closes the circle.",
        "Remove one of the entries, or move what the files share into a file of its own.",
        "extends: recipe.yaml\n" + _HEAD,
    ),
    "unknown-profile": Code(
        "a `--profile` that the recipe doesn't have",
        "Profiles are written under `profiles` in the recipe, or in a file that it extends.",
        "Take one of those that the help lists.",
        _HEAD + "profiles:\n  laptop: {engine: {device: cpu}}\n",
        "deploykit validate recipe.yaml --profile latpop",
        (),
        ("latpop",),
    ),
    "unset-variable": Code(
        "a variable without a value",
        "`${vars.x}` stands for a variable that is given under `vars`, `${env.X}` for one of the environment. A "
        "variable that isn't set is never taken for an empty text. The variables of profiles that aren't asked for may "
        "be unset.",
        "Set it, give a default as in `${env.X:-default}`, or correct the name.",
        _HEAD + "vars: {ctx: 8192}\nengine:\n  session_len: ${vars.ctz}\n",
    ),
    "bad-reference": Code(
        "a `${…}` that is no reference, or stands where none can",
        "References are `${vars.NAME}`, `${env.NAME}`, `${env.NAME:-default}` and `${env.NAME:?message}`, in values of "
        "files: not in keys, and not in `extends`. In `{…}` and `[…]` YAML wants them in quotes.",
        "Write one of the forms. `$${` is the text `${` itself.",
        _HEAD + "description: for ${USER}\n",
    ),
    "reference-cycle": Code(
        "a variable that stands for itself",
        "On the way from reference to reference a variable comes up again, so that it has no value.",
        "Write one of them out.",
        _HEAD + "vars:\n  a: ${vars.b}\n  b: ${vars.a}\nname: ${vars.a}\n",
    ),
    "missing-file": Code(
        "no such file",
        "There is nothing at the path that was given. A similar name beside it is proposed.",
        "Correct the path; it is relative to the folder you are in.",
        command="deploykit validate no-such-recipe.yaml",
    ),
    "not-a-file": Code(
        "a folder in place of a file",
        "`validate` checks recipe files.",
        "Give the file inside the folder; `deploykit up FOLDER` serves a folder that holds a model.",
        command="deploykit validate recipes",
    ),
    "unreadable-file": Code(
        "a file that can't be read",
        "The system refuses, for the reason shown.",
        "Give yourself the permission, or correct the path.",
        command="deploykit validate /proc/self/mem",
    ),
    "bad-set": Code(
        "a `--set` without `=`, or into something that isn't a section; likewise `DEPLOYKIT_SET__…`",
        "`--set` takes `KEY=VALUE`, where KEY is a path such as `engine.session_len` or `model.sources[0].revision`; "
        "in the environment that is `DEPLOYKIT_SET__engine__session_len`. What is on the way must be a section or an "
        "entry that there is, and `extends` and `profiles` stand in files alone.",
        "Write the key as it stands in the recipe, a `=`, and the value as YAML.",
        _HEAD,
        "deploykit validate recipe.yaml --set engine.session_len",
        ("engine.session_len",),
    ),
    "too-many-errors": Code(
        "more than 100 errors: the rest is counted",
        "The first hundred are shown.",
        "Begin with the first ones; is it a recipe at all?",
        _HEAD + "".join(f"key{n}: 1\n" for n in range(101)),
    ),
}
