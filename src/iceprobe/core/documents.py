"""The one reader of JSON files: results, manifests, cards.

A file may be edited, truncated or malicious. Whatever is wrong is a ``ValueError``, to which each
file's own reader adds the file's name and a remedy.
"""

import json
import math
from typing import Any, NoReturn

_DIGITS = 19  # of the largest 64-bit integer


def parse_json(content: bytes | str, *, ours: bool = True) -> Any:
    """The parsed document; in ``ours`` only finite numbers and 64-bit integers are allowed.

    Raises:
        ValueError: if it isn't JSON, nests too deeply, or has a number that isn't allowed.
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
