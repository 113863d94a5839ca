"""JSON from outside: results, manifests, cards and what else lies beside them.

A file may have been edited, cut or made to hurt. :func:`parse_json` is the one reader: whatever is wrong
is a ``ValueError``, which each file's own reader tells with its name and remedy.
"""

import json
import math
from typing import Any, NoReturn

_DIGITS = 19  # of a whole number that 64 bits hold


def parse_json(content: bytes | str, *, ours: bool = True) -> Any:
    """The document.

    Args:
        content: of the file.
        ours: whether its numbers are held to what iceprobe writes: whole ones of up to 64 bits,
            and finite ones.

    Raises:
        ValueError: if it isn't JSON, nests too deeply, or has another number in it.
    """
    try:
        if not ours:
            return json.loads(content)
        return json.loads(content, parse_int=_whole, parse_float=_finite, parse_constant=_constant)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS or not -(2**63) <= (value := int(digits)) < 2**63:
        raise ValueError(f"it has a whole number of {len(digits)} digits in it")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {digits[:20]} in it")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name} in it, which is no JSON")
