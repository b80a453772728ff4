"""Checked access to one record of untrusted data: problems are noted, none stops the reading of the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from exporter.data.cells import is_printed, listed


class Fields:
    """One record whose fields are asked for by type.

    A field that is missing or of the wrong type yields a harmless stand-in ("" or an empty sequence) and a
    line in ``problems``; whoever builds something from the record must look there before using it.

    Args:
        record: the record as decoded.
        where: put before each field's name in problems, e.g. ``history[0].``.
        problems: where to note problems; a new list by default, the parent's for nested records.
    """

    def __init__(
        self, record: Mapping[str, object], where: str = "", problems: list[str] | None = None
    ) -> None:
        self.record = record
        self.where = where
        self.problems: list[str] = [] if problems is None else problems

    def note(self, key: str, problem: str) -> None:
        """Note what is wrong with one field."""
        self.problems.append(f"{self.where}{key} {problem}")

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Note every key outside ``known``; a key that is dropped in silence hides a mistake."""
        unknown = [str(key) for key in self.record if key not in known]
        if unknown:
            noun = "key" if len(unknown) == 1 else "keys"
            inside = f" in {self.where.rstrip('.')}" if self.where else ""
            self.problems.append(
                f"unknown {noun} {', '.join(map(repr, unknown))}{inside}; valid keys: {', '.join(known)}"
            )

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.record.get(key) is not None

    def text(self, key: str) -> str:
        """A required text with something in it."""
        if not self.has(key):
            self.note(key, "is null" if key in self.record else "is missing")
            return ""
        return self._checked(key, self.record[key])

    def optional_text(self, key: str) -> str | None:
        """A text with something in it, or None where the field is missing or null."""
        return self._checked(key, self.record[key]) if self.has(key) else None

    def flag(self, key: str) -> bool:
        """A boolean; False where the field is missing or null."""
        value = self.record.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.note(key, f"must be true or false, received {described(value)}")
        return False

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, each with something in it; empty where the field is missing or null."""
        return tuple(self._checked(f"{key}[{i}]", value) for i, value in enumerate(self.items(key)))

    def one_or_more(self, key: str) -> tuple[str, ...]:
        """A text, or a list of texts, also one that a program printed as text; empty where the field is missing or null."""
        value = self.record.get(key)
        if not isinstance(value, str):
            return self.texts(key)
        try:
            parts = listed(value) if is_printed(value) else [value]
        except ValueError as error:
            self.note(key, str(error))
            return ()
        return tuple(self._checked(key, part) for part in parts)

    def items(self, key: str) -> Sequence[object]:
        """A list of anything; empty where the field is missing or null."""
        value = self.record.get(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            self.note(key, f"must be a list, received {described(value)}")
            return ()
        return value

    def nested(self, key: str) -> list[Fields]:
        """A list of records; empty where the field is missing or null. Their problems are noted here."""
        found = []
        for index, value in enumerate(self.items(key)):
            if isinstance(value, Mapping):
                found.append(Fields(value, f"{self.where}{key}[{index}].", self.problems))
            else:
                self.note(f"{key}[{index}]", f"must be an object, received {described(value)}")
        return found

    def _checked(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            self.note(key, f"must be a string, received {described(value)}")
            return ""
        if not value.strip():
            self.note(key, "is empty")
            return ""
        if any("\ud800" <= character <= "\udfff" for character in value):
            self.note(
                key, "contains half of a surrogate pair, which is not a character; write the whole pair"
            )
            return ""
        return value


def described(value: object) -> str:
    """The type of a decoded value in the words of its file format, with the value where it is short."""
    names = {
        dict: "an object",
        list: "a list",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
    }
    name = "null" if value is None else names.get(type(value), type(value).__name__)
    shown = repr(value)
    return f"{name} ({shown})" if value is not None and len(shown) <= 40 else name
