"""Formulas M(w) of weights of the examples, and their linearisation at equal weights.

    s_i = M(1) + n ∂M/∂w_i

A formula is of degree 0 in w, so Σ_i w_i ∂M/∂w_i = 0 (Euler) and the mean of s is M(1). Slopes are by
automatic differentiation; the weight of an example moves counts, ranks and bins alike.
"""

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Formula = Callable[[Any, NDArray, "Tensor"], "Tensor | None"]  # record, targets, (W, n) → (S, W)


def of_fields(function: str, *fields: str, targets: bool = True) -> Formula:
    """The formula that a function of some fields of the record is.

    Args:
        function: ``"module:name"`` below ``iceprobe.tasks``, imported when it is used, for it needs torch.
            It takes the fields, ``targets`` and ``weights`` by these names.
        fields: of the record; the formula is None if one of them is.
        targets: whether it takes them.
    """
    module, _, name = function.partition(":")

    def formula(record: Any, given: NDArray, weights: "Tensor") -> "Tensor | None":
        found = {field: getattr(record, field, None) for field in fields}
        if any(field is None for field in found.values()):
            return None
        if targets:
            found["targets"] = given
        compute = getattr(importlib.import_module(f"iceprobe.tasks.{module}"), name)
        computed: Tensor = compute(**found, weights=weights)
        return computed

    return formula


def at_equal_weights(formula: Formula, record: Any, targets: NDArray) -> NDArray[np.float64] | None:
    """M(1) of each member, ``(S,)``; None if the formula is."""
    found = resampled(formula, record, targets, np.ones((1, len(targets))))
    return None if found is None else found[:, 0]


def resampled(
    formula: Formula, record: Any, targets: NDArray, weights: NDArray
) -> NDArray[np.float64] | None:
    """M of ``weights (W, n)`` of any dtype: ``(S, W)``; None if the formula is."""
    import torch

    with torch.no_grad():
        found = formula(record, targets, torch.from_numpy(np.array(weights, np.float64)))
    return None if found is None else found.numpy()


def linearised(formula: Formula, record: Any, targets: NDArray) -> NDArray[np.float64] | None:
    """M(1) + n ∂M/∂w_i of each member, ``(S, n)``; None where the formula is None or NaN."""
    import torch

    n, rows = len(targets), []
    for member in _members(record):
        with torch.inference_mode(False), torch.enable_grad():
            weights = torch.ones(1, n, dtype=torch.float64, requires_grad=True)
            found = formula(member, targets, weights)
            if found is None or not bool(found.isfinite().all()):
                return None
            slope = torch.zeros_like(weights)
            if found.requires_grad:
                (slope,) = torch.autograd.grad(found[0, 0], weights)
        rows.append((found.detach()[0, 0] + n * slope[0]).numpy())
    return np.stack(rows)


class _Member:
    """One member's record, a view of the whole: its fields are ``(1, …)``."""

    def __init__(self, fields: "_Fields", number: int):
        self._fields, self._number = fields, number

    def __getattr__(self, name: str) -> Any:
        field = self._fields.read(name)
        return None if field is None else field[self._number : self._number + 1]


class _Fields:
    """Fields of a record, read once."""

    def __init__(self, record: Any):
        self.record, self.found = record, dict[str, Any]()

    def read(self, name: str) -> Any:
        if name not in self.found:
            self.found[name] = getattr(self.record, name, None)
        return self.found[name]


def _members(record: Any) -> Iterator[_Member]:
    """Each member of a record, at least one; how many there are is known once a field is read."""
    fields, number, count = _Fields(record), 0, 1
    while number < count:
        yield _Member(fields, number)
        number += 1
        count = max((len(one) for one in fields.found.values() if one is not None), default=1)
