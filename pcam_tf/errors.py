"""What the user is told when an input cannot be used."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An input that cannot be used; the message is one line: what was wrong and what to do."""


def first_line(error: Exception) -> str:
    """Return the first line of what a library's error says, or its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a `name` that is none of the `known` ones, suggesting the nearest."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), [each.lower() for each in known], n=1)
    nearest = next((each for each in known if near and each.lower() == near[0]), None)
    hint = f"did you mean {nearest!r}? " if nearest else ""
    return InputError(f"unknown {kind} {name!r}: {hint}There are: {', '.join(known)}.")
