"""A backbone's own attention: the weights of a block's class token over all tokens.

    a_h = softmax(q_h Kᵀ_h s + bias)      q_h: the class token's query, s: the block's scale

A block's fused attention doesn't return a_h. So its arguments, after norms and rotary positions,
are intercepted, and a_h is computed again for the class token only.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class CaughtAttention(TorchFunctionMode):
    """Keeps the first token's weights in the last fused attention of a running block.

    Attributes:
        weights: ``(B, heads, keys)``, or None if the block had no fused attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor | None = None
        self._inside = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._inside and func is F.scaled_dot_product_attention:
            self.weights = first_query_weights(*args, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def within(self, block: nn.Module) -> Iterator[None]:
        """Watch ``block`` only."""

        def enter(*_: Any) -> None:
            self._inside = True

        def leave(*_: Any) -> None:
            self._inside = False

        with ExitStack() as stack:
            stack.enter_context(block.register_forward_pre_hook(enter))
            stack.enter_context(block.register_forward_hook(leave))
            parts: Iterator[Any] = block.modules()
            for part in parts:
                if getattr(part, "fused_attn", None) is False:
                    stack.callback(setattr, part, "fused_attn", False)
                    part.fused_attn = True
            stack.enter_context(self)
            yield


def first_query_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights of the first query in one call of ``scaled_dot_product_attention``.

    It has that function's arguments; ``value``, ``dropout_p`` and ``enable_gqa`` aren't used.

    Returns:
        ``(B, heads, K)`` in float32, or float64 if the queries are.
    """
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = query[:, :, :1].to(wide) @ key.to(wide).mT
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if attn_mask is not None:
        rows = attn_mask[..., :1, :]
        hidden = torch.zeros_like(rows, dtype=wide)
        bias = hidden.masked_fill(~rows, -torch.inf) if rows.dtype == torch.bool else rows.to(wide)
        scores = scores + bias
    if is_causal:
        scores[..., 1:] = -torch.inf
    return scores.softmax(-1)[:, :, 0]
