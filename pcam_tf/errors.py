"""Errors about input that cannot be used."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """An input that cannot be used; the message is one line: what was wrong and what to do."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a `name` that is not one of `known`; it suggests the nearest."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), [each.lower() for each in known], n=1)
    nearest = next((each for each in known if near and each.lower() == near[0]), None)
    hint = f"did you mean {nearest!r}? " if nearest else ""
    return InputError(f"unknown {kind} {name!r}: {hint}There are: {', '.join(known)}.")


def missing_extra(library: str, extra: str) -> InputError:
    """Return the error for an optional `library` that is not installed, naming its `extra`."""
    return InputError(f"{library} is not installed: run `pip install 'pcam_tf[{extra}]'`.")
