"""What a model would take that no engine runs yet: its weights and its KV memory, from formulas alone.

A plan that is refused shows it, so that the refusal still says which machine the model is for. A plan that is not
refused has the engine's own figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from deploykit.plan.formulae import KVTable, kv_table
from deploykit.plan.kinds import UnknownKindError
from deploykit.plan.memory import trained_len
from deploykit.plan.text import format_bytes, format_count
from deploykit.plan.types import MemoryItem
from deploykit.plan.vision import Image, activation_bytes, image_of, tower_bytes

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.recipe.schema import EngineSection

SESSION = 8192  # where the recipe names none and the model was trained for more
PREFILL = 2048
RATIO = 0.8


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one device. `memory` has rows weights, vision and projector (where there is a tower), images and
    kv, the last for one full session of `session_len` tokens; `kv` is None where no formula covers a kind of layer,
    and `problem` names it."""

    memory: tuple[MemoryItem, ...]
    session_len: int
    kv: KVTable | None = None
    problem: str | None = None

    @property
    def total_bytes(self) -> int:
        return sum(item.bytes for item in self.memory)

    def sessions(self, limit: int, ratio: float = RATIO) -> int:
        """Full sessions beside everything else in `limit` bytes, of which KV memory takes the share `ratio`."""
        if self.kv is None or not self.kv.session_bytes:
            return 0
        rest = self.total_bytes - self.kv.session_bytes
        return max(0, int((limit - rest) * ratio)) // self.kv.session_bytes


def outlook(facts: Facts, engine: EngineSection | None = None) -> Outlook:
    """What `facts` would take at a recipe's settings. Never raises: what isn't known is said so."""
    session, prefill, block_len, policy, tp = _settings(facts, engine)
    tower, projector = tower_bytes(facts)
    weights = facts.stored_bytes - tower - projector
    rows = [MemoryItem("weights", weights // tp, f"as stored in {facts.weight_dtype}" + _shared(tp))]
    if tower:
        rows.append(MemoryItem("vision", tower, "the image tower"))
    if projector:
        rows.append(MemoryItem("projector", projector, "from the tower into the language model"))
    if image := image_of(facts):
        rows.append(MemoryItem("images", activation_bytes(image), _image_note(image)))
    try:
        table = kv_table(
            facts,
            session_len=session,
            block_len=block_len,
            prefill=prefill,
            precision="bfloat16" if policy == "none" else policy,
            tp=tp,
        )
    except UnknownKindError as error:
        return Outlook(memory=tuple(rows), session_len=session, problem=str(error))
    note = f"one session of {format_count(session)} tokens, {format_bytes(table.token_bytes)} for each more"
    rows.append(MemoryItem("kv", table.session_bytes, note))
    return Outlook(memory=tuple(rows), session_len=session, kv=table)


def _settings(facts: Facts, engine: EngineSection | None) -> tuple[int, int, int, str, int]:
    """(session_len, prefill, block_len, quant_policy, tp)."""
    longest = min(trained_len(facts), SESSION)
    if engine is None:
        return longest, min(PREFILL, longest), 64, "none", 1
    session = engine.session_len if isinstance(engine.session_len, int) else longest
    prefill = (
        engine.max_prefill_tokens if isinstance(engine.max_prefill_tokens, int) else min(PREFILL, session)
    )
    return session, prefill, engine.cache.block_len, engine.cache.quant_policy, engine.tp


def _shared(tp: int) -> str:
    return f", shared out to {tp} devices" if tp > 1 else ""


def _image_note(image: Image) -> str:
    parts = (
        f"{image.tiles} tiles of {image.tile} pixels"
        if image.tiles > 1
        else f"{image.tile} x {image.tile} pixels"
    )
    each = f", one for each {image.unit} x {image.unit}" if image.unit else ""
    return f"activations of one image, {parts}: {format_count(image.tokens)} tokens of a prompt{each}"
