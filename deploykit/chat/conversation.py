"""What was said so far."""

from __future__ import annotations

from dataclasses import dataclass, field

ChatMessage = dict[str, str]


@dataclass
class Conversation:
    """Answered turns, the system message, and the question that is open or that failed."""

    system: str | None = None
    turns: list[tuple[str, str]] = field(default_factory=list)
    question: str | None = None  # asked, without an answer yet

    def ask(self, text: str) -> list[ChatMessage]:
        """The messages to send for `text`; `answer` closes the turn."""
        self.question = text
        messages: list[ChatMessage] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for user, assistant in self.turns:
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return [*messages, {"role": "user", "content": text}]

    def answer(self, text: str) -> None:
        """Close the open question."""
        if self.question is not None:
            self.turns.append((self.question, text))
            self.question = None

    def take_back(self) -> str | None:
        """Undo the last question, answered or not, and return it; None when there is none."""
        if self.question is not None:
            question, self.question = self.question, None
            return question
        return self.turns.pop()[0] if self.turns else None

    def clear(self) -> None:
        self.turns.clear()
        self.question = None
