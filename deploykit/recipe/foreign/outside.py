"""What stands outside of a recipe: one row of the tables of commands, Python names and environment variables."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Names of another server, and what they are here in Markdown; `here` is empty where there is nothing, and `note`
    says why. `usage` goes on after the names, as `MODEL`. A name may end with `*`."""

    owner: str
    names: tuple[str, ...]
    here: str
    note: str = ""
    usage: str = ""

    @property
    def there(self) -> str:
        """The names as Markdown."""
        usage = f" {self.usage}" if self.usage else ""
        return ", ".join(f"`{name}{usage}`" for name in self.names)

    @property
    def words(self) -> str:
        """What is said of it in a sentence: what it is here, and the note."""
        if not self.here:
            return f"there is none here: {self.note}" if self.note else "there is none here"
        return f"here it is {self.here}" + (f" ({self.note})" if self.note else "")
