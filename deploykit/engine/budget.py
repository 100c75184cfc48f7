"""The tokens of one step: what is left of them, and how many a prompt may have."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Budget:
    """What is left of a step: `step` tokens of its usual size, `prompts` of them for prompts, and `most` tokens of the
    largest step that the runner takes."""

    step: int
    prompts: int
    most: int
    reads_a_prompt: bool = False

    def take(self, num_tokens: int, *, of_prompt: bool) -> None:
        """A row computes `num_tokens` in this step."""
        self.step -= num_tokens
        self.most -= num_tokens
        if of_prompt:
            self.prompts -= num_tokens
            self.reads_a_prompt = True

    def of_prompt(self, pending: int, least: int, kept: int = 0) -> int:
        """Tokens for a prompt with `pending` to read, where rows after it need `kept`: what is left, or `least` if
        that is more; none or less: not in this step."""
        usual = min(self.step - kept, self.prompts)
        return min(pending, max(usual, least), self.most - kept)
