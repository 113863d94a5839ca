"""Sizes, counts and lists of numbers from text: ``8GB``, ``1.28M``, ``1e-3,1e-2``."""

import re
from typing import Any

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: Any) -> Any:
    """``"8GB"``, ``"500 MB"``, ``"4GiB"`` or a number of bytes → bytes; else a ``ValueError``."""
    return _parsed(text, r"([kmgt]i?|)b?", "a size such as 8GB or 500MB")


def parse_count(text: Any) -> Any:
    """``"200k"``, ``"1.5M"`` or a number → a whole number; else a ``ValueError``."""
    return _parsed(text, "([kmgt]?)", "a number such as 200k or 1.5M")


def parse_numbers(value: Any) -> Any:
    """``"1e-3,1e-2"`` or one number → a list; lists are unchanged."""
    if isinstance(value, str):
        return value.split(",")
    return [value] if isinstance(value, int | float) else value


def _parsed(text: Any, unit: str, wanted: str) -> Any:
    if not isinstance(text, str):
        return text
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*{unit}", text.strip().lower())
    if not match:
        raise ValueError(f"write {wanted}")
    value = float(match[1]) * _UNITS[match[2]]
    if value >= 2**63:
        raise ValueError("write a number that 64 bits hold")
    return round(value)
