"""Which chat template a model is served with, and the templates that come with deploykit.

    resolve(choice, model) -> Resolved    the decision: the checkpoint's own, a built-in, a file, fields or a class
    open_template(source=..., python=..., ...) -> Template    what renders: `render`, `render_pieces`, `stop_words`
    template_stops(words, tokenizer) -> TemplateStops    stop words as texts and as token ids

`choice` is what a recipe's `chat` section says. A program's `ChatTemplateConfig` becomes one by `to_sets()` (or
`to_recipe()`), the keys of a recipe that mean the same; names that this process registered are understood too.
`Resolved` is plain data, and its fields cross into the front process as a part of its specification.
Nothing here imports anything heavy.
"""

from deploykit.prompt.templates.builtins import BUILTINS, COMPLETION, builtin, names
from deploykit.prompt.templates.fields import CAPABILITIES, Capability, ChatTemplateConfig
from deploykit.prompt.templates.format import Format, to_jinja
from deploykit.prompt.templates.match import match
from deploykit.prompt.templates.open import Template, open_template
from deploykit.prompt.templates.registry import load_python, register_template, registered
from deploykit.prompt.templates.resolve import Choice, ModelClues, Resolved, resolve
from deploykit.prompt.templates.stops import TemplateStops, template_stops

__all__ = [
    "BUILTINS",
    "CAPABILITIES",
    "COMPLETION",
    "Capability",
    "ChatTemplateConfig",
    "Choice",
    "Format",
    "ModelClues",
    "Resolved",
    "Template",
    "TemplateStops",
    "builtin",
    "load_python",
    "match",
    "names",
    "open_template",
    "register_template",
    "registered",
    "resolve",
    "template_stops",
    "to_jinja",
]
