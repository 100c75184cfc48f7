"""Builds transformers' model for a checkpoint and loads its weights.

The class comes from the checkpoint's architecture, the parameters from a source of (Hugging Face name, tensor); no
code of the checkpoint is run and nothing is fetched. transformers' own loader maps names (it merges the experts of
a mixture, ties embeddings, leaves out what a class declares unused); whatever it can't place is an error here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from deploykit.checkpoint.facts import Facts
from deploykit.engine.pytorch import attention
from deploykit.engine.pytorch.architectures import OWN_ATTENTION
from deploykit.engine.pytorch.errors import bad_checkpoint, unsupported

Weights = Iterable[tuple[str, torch.Tensor]]

_NAMED = 4  # how many tensors an error message names

ALL_ATTENTION_FUNCTIONS.register(attention.IMPLEMENTATION, attention.paged_attention)


def model_class(facts: Facts) -> type[PreTrainedModel]:
    """transformers' class for the architecture. Raises DeploykitError where there is none."""
    names: set[str] = set()
    for entry in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        names.update((entry,) if isinstance(entry, str) else entry)
    found = getattr(transformers, facts.architecture, None) if facts.architecture in names else None
    if found is None:
        raise unsupported(
            facts.architecture, f"is no text generation class of transformers {transformers.__version__}"
        )
    if facts.architecture in OWN_ATTENTION:
        raise unsupported(
            facts.architecture, "has attention code of its own, which paged attention can't replace"
        )
    return cast(type[PreTrainedModel], found)


def model_config(facts: Facts) -> PreTrainedConfig:
    """transformers' config object. Raises DeploykitError where the values make no model of this type."""
    if facts.model_type not in CONFIG_MAPPING:
        raise unsupported(facts.model_type, f"is no model type of transformers {transformers.__version__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cast(PreTrainedConfig, CONFIG_MAPPING[facts.model_type].from_dict(_decoded(facts.config)))
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as e:
        raise bad_checkpoint(f"{facts.path}: config.json", str(e).splitlines()[-1].strip()) from e


def _decoded(value: Any) -> Any:
    """transformers writes infinities and NaN, which JSON lacks, as {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def load_model(
    facts: Facts, weights: Weights, dtype: torch.dtype, progress: Callable[[float], None]
) -> PreTrainedModel:
    """The model in `dtype` on the CPU, its attention replaced. Raises DeploykitError naming tensors that don't fit."""
    cls = model_class(facts)
    config = model_config(facts)
    tensors: dict[str, torch.Tensor] = {}
    total = max(len(facts.tensors), 1)
    for name, tensor in weights:
        tensors[name] = tensor
        progress(min(len(tensors) / total, 1.0))
    with _Quiet():
        model, report = cls.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            attn_implementation=attention.IMPLEMENTATION,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
        )
    _check_report(facts, report)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return cast(PreTrainedModel, model.eval())


def _check_report(facts: Facts, report: dict[str, Any]) -> None:
    mismatched = report.get("mismatched_keys") or ()
    if mismatched:
        name, got, expected = next(iter(sorted(mismatched, key=str)))
        raise bad_checkpoint(
            facts.path, f"{name} has shape {tuple(got)}, the config asks for {tuple(expected)}"
        )
    for key, problem in (("missing_keys", "are missing"), ("unexpected_keys", "belong to no parameter")):
        names = sorted(report.get(key) or ())
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise bad_checkpoint(facts.path, f"tensors {problem}: {', '.join(names[:_NAMED])}{more}")
    if report.get("conversion_errors") or report.get("error_msgs"):
        raise bad_checkpoint(facts.path, str(report.get("conversion_errors") or report.get("error_msgs")))


class _Quiet:
    """transformers' progress bars and loading report: deploykit prints its own."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._bars = logging.is_progress_bar_enabled()
        self._level = logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bars:
            logging.enable_progress_bar()


class Backbone(nn.Module):
    """The model without its head; gives back parked hidden states while the head alone is to run.

    So the head runs as transformers wrote it (scaling, soft-capping and all), on as few rows as are wanted.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.parked: torch.Tensor | None = None
        self._output: Callable[..., Any] = BaseModelOutputWithPast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.parked is not None:
            return self._output(last_hidden_state=self.parked)
        output = self.body(*args, **kwargs)
        self._output = type(output)
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("body"), name)


class LanguageModel:
    """A causal language model in two parts: `hidden` over tokens, `logits` over chosen hidden states."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        body = model.get_decoder()
        path = next((name for name, module in model.named_modules() if module is body), "")
        if not path:
            raise unsupported(type(model).__name__, "has no separate backbone")
        self.dtype: torch.dtype = model.dtype
        self.backbone = Backbone(body)
        model.set_submodule(path, self.backbone)

    def hidden(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """int64[1, T] tokens and positions -> hidden states after the last norm [T, hidden]."""
        output = self.backbone(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [n, hidden] -> float32 logits [n, vocab]."""
        self.backbone.parked = hidden.unsqueeze(0)
        try:
            # the ids only say how many rows there are: the backbone does not run
            output = self.model(inputs_embeds=self.backbone.parked, use_cache=False)
        finally:
            self.backbone.parked = None
        return output.logits[0].float()  # type: ignore[no-any-return]
