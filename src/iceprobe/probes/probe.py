"""A probe selects tokens, pools them and classifies the descriptor.

probe(X) = Linear_C(BatchNorm(pooling(X)))
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec, as_text, parse_spec
from iceprobe.probes.framework import ComposedPooling, takes_mask
from iceprobe.probes.inputs import PREFIX, Input, input_of
from iceprobe.probes.masks import given, mean_tokens
from iceprobe.probes.pooling import AttentivePooling, Pooling, QueryPooling
from iceprobe.probes.registry import (
    MODEL_VECTORS,
    PROBES,
    TERMS,
    no_vector,
    parse_probe,
    probe_label,
    probe_options,
    takes_layers,
)
from iceprobe.probes.regularisation import Regularisation
from iceprobe.tasks.task import Task
from iceprobe.tokens import JoinedTokens, Tokens, TokenShape


class Probe(nn.Module):
    """Pooling, BatchNorm without affine (ε = 1e-6), linear classifier.

    Args:
        pooling: tokens → descriptor ``(B, D_o)``.
        num_classes: C.
        input: what the pooling reads: ``patches``, ``class``, ``mean``, ``class+patches``,
            ``prefix+patches``, vectors to be concatenated (``class+mean``), or these of several layers
            (`iceprobe.probes.inputs`).
        batch_norm: whether the descriptor is normalised before the classifier.
        regularisation: terms of the training loss.
        parts: equal parts of an example's tokens, clips of a video: each is pooled and classified by itself, and the
            outputs are averaged as ``task`` does it (`Task.averaged`).
        task: what the outputs are; needed for several parts alone.

    Raises:
        IceprobeError: for terms that the pooling doesn't support.
    """

    def __init__(
        self,
        pooling: Pooling,
        num_classes: int,
        *,
        input: str = "patches",
        batch_norm: bool = True,
        regularisation: Regularisation | None = None,
        parts: int = 1,
        task: Task | None = None,
    ):
        super().__init__()
        self.input, self.read = input, Input.parse(input)
        self.parts, self.task = parts, task
        self.scale: Tensor | None
        self.register_buffer("scale", None)
        self.regularisation = regularisation or Regularisation()
        _check_terms(pooling, self.regularisation)
        self.pooling = pooling
        self.norm = (
            nn.BatchNorm1d(pooling.out_dim, affine=False, eps=1e-6) if batch_norm else nn.Identity()
        )
        self.classifier = nn.Linear(pooling.out_dim, num_classes)
        self.register_load_state_dict_pre_hook(_take_scale)

    def forward(self, tokens: Tokens | Tensor, mask: Tensor | None = None) -> Tensor:
        """`Tokens`, or a tensor and its mask as `read_tokens` takes them → logits ``(B, C)``."""
        return self.classify(self.pooling(*self.read_tokens(tokens, mask)))

    def classify(self, descriptors: Tensor) -> Tensor:
        """Descriptors ``(B, D_o)``, of an example in parts a row each → logits ``(B, K)``.

        Raises:
            IceprobeError: of several parts without a task, which says how outputs are averaged.
        """
        logits = self._classified(descriptors)
        if self.parts == 1:
            return logits
        if self.task is None:
            raise IceprobeError(
                f"a probe of examples in {self.parts} parts doesn't know how their outputs are averaged: give "
                "build_for its task="
            )
        return self.task.averaged(logits, self.parts)

    def of_each_part(self, tokens: Tokens | Tensor) -> Tensor:
        """Logits of every part by itself, ``(B · parts, K)``: what a training's loss is of."""
        return self._classified(self.pooling(*self.read_tokens(tokens)))

    def _classified(self, descriptors: Tensor) -> Tensor:
        return self.classifier(self.norm(descriptors.to(self.classifier.weight.dtype)))

    def descriptors(self, tokens: Tokens | Tensor, mask: Tensor | None = None) -> Tensor:
        """What the pooling makes of each example, ``(B, D_o)``; of several parts their mean."""
        return self.mean_of_parts(self.pooling(*self.read_tokens(tokens, mask)))

    def attention(self, tokens: Tokens | Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights ``(B, M, N')`` of the tokens that the pooling reads, 0 in padding.

        Those of an example's parts follow each other, each a share of the whole.

        Raises:
            IceprobeError: where the pooling has no learned attention.
        """
        return self.over_parts(self.pooling.attention(*self.read_tokens(tokens, mask)))

    def mean_of_parts(self, rows: Tensor) -> Tensor:
        """A row for each part ``(B · parts, …)`` → for each example ``(B, …)``."""
        return rows if self.parts == 1 else rows.unflatten(0, (-1, self.parts)).mean(1)

    def over_parts(self, maps: Tensor) -> Tensor:
        """Maps of each part ``(B · parts, M, n')`` → of the examples ``(B, M, N')``, divided by the parts."""
        if self.parts == 1:
            return maps
        layers = 1 if self.read.wide else max(1, len(self.read.layers))
        each = maps.unflatten(-1, (layers, -1)).unflatten(0, (-1, self.parts))
        return each.permute(0, 2, 3, 1, 4).flatten(2) / self.parts

    @property
    def on_mean(self) -> bool:
        """Whether its logits are linear in the mean of one layer's patches, and so a mean over these."""
        read = self.read
        return read.names == ("mean",) and len(read.layers) < 2 and not self.pooling.num_predictors

    @torch.no_grad()
    def evidence(
        self,
        tokens: Tokens | Tensor,
        outputs: Sequence[int] | Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """How much each token speaks for an output, exactly: ``Σ_n e_kn + b_k`` is the logit of output k.

        b_k is the classifier's bias: positive evidence speaks for the output, negative against it. With a batch
        norm it is relative to the mean descriptor of the training images (`iceprobe.probes.evidence`). Of a
        number it is in the number's unit. Of an example in parts it sums to the mean of their logits. The probe
        must be in evaluation mode.

        Args:
            tokens: of B images.
            outputs: K' of the K, or ``(B, K')`` of each image its own; all by default. Time and memory grow
                with K'.
            mask: of a tensor ``(B, N, D)``, which rows are tokens; `Tokens` have their own.

        Returns:
            ``(B, K', N')`` of the tokens that the pooling reads, patches last (of each layer, if it reads
            several); 0 in padding.

        Raises:
            IceprobeError: unless the pooling is ``additive``, with the reason.
        """
        weight, norm = self.classifier.weight, self.norm
        centre = weight.new_zeros(weight.shape[1])
        if isinstance(norm, nn.BatchNorm1d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            centre = norm.running_mean
            weight = weight * (norm.running_var + norm.eps).rsqrt()
        if outputs is not None:
            weight = weight[torch.as_tensor(outputs, device=weight.device)]
            if weight.ndim == 3:
                weight = weight.repeat_interleave(self.parts, 0)
        selected, *real = self.read_tokens(tokens, mask)
        if self.on_mean:  # linear in the mean token, and so a mean over the patches
            for layer in self.read.layers if isinstance(tokens, JoinedTokens) else ():
                tokens = tokens.layers[layer]  # type: ignore[union-attr]
            patches = tokens.patches if isinstance(tokens, Tokens) else tokens
            if patches.ndim == 3:
                selected = patches
                real = list(given(tokens.mask if isinstance(tokens, Tokens) else mask))
            selected = selected if self.scale is None else selected * self.scale.to(selected.dtype)
        return self.over_parts(self.pooling.evidence(selected, weight, centre, *real))

    def penalty(self, tokens: Tokens | Tensor, mask: Tensor | None = None) -> Tensor:
        """What `regularisation` adds to the loss, a mean over images, ``()``.

        For your own training loop; `iceprobe.fit` and `iceprobe.adapt` add it themselves.
        """
        if not isinstance(self.pooling, QueryPooling) or not self.regularisation:
            return self.classifier.weight.new_zeros(())
        selected, *real = self.read_tokens(tokens, mask)
        log_weights = self.pooling.log_attention(selected, *real)
        return self.regularisation(log_weights, log_weights.exp(), *real).mean()

    def select(self, tokens: Tokens | Tensor) -> Tensor:
        """The tokens that the pooling reads, ``(B, N', D)``, as `read_tokens` says.

        Raises:
            IceprobeError: as `read_tokens`, and if some rows are padding.
        """
        selected, *real = self.read_tokens(tokens)
        if real:
            raise IceprobeError(
                "these tokens have a mask, which select(tokens) would lose: take read_tokens(tokens)"
            )
        return selected

    def read_tokens(
        self, tokens: Tokens | Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """What the pooling reads, as its arguments: tokens ``(B, N', D)``, and their mask if some are padding.

        A tensor ``(B, N, D)`` is the patch tokens (or all that ``input`` names, concatenated),
        ``(B, D)`` the class token or the mean. ``mask``, ``(B, N)``, is that of a tensor; `Tokens` have
        their own. Of examples in parts a row is one part: ``(B · parts, n', D)``.

        Raises:
            IceprobeError: if the tokens lack what ``input`` names, or a mask is given beside `Tokens`.
        """
        if isinstance(tokens, Tokens):
            if mask is not None:
                raise IceprobeError("Tokens have their own mask: pass Tokens(…, mask=…) alone")
            selected, mask = self._select(tokens)
        else:
            selected, mask = self._as_selected(tokens, mask)
        if self.parts > 1:
            selected = self._cut(selected, mask)
        return self._scaled(selected), *given(mask)

    def read_rows(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """As `read_tokens`, of a tensor with a row for each part of an example."""
        selected, mask = self._as_selected(tokens, mask)
        return self._scaled(selected), *given(mask)

    def _scaled(self, selected: Tensor) -> Tensor:
        return selected if self.scale is None else selected * self.scale.to(selected.dtype)

    def _cut(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens ``(B, N', D)`` of examples, those of a layer side by side → of their parts ``(B · parts, n', D)``."""
        layers = 1 if self.read.wide else max(1, len(self.read.layers))
        if mask is not None or tokens.shape[1] % (layers * self.parts):
            had = "a mask" if mask is not None else f"{tokens.shape[1]} tokens an example"
            raise IceprobeError(
                f"a probe of examples in {self.parts} equal parts got {had}: give tokens as it was fitted on"
            )
        each = tokens.unflatten(1, (layers, self.parts, -1))
        return each.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _as_selected(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        of_tokens = self.read.of_tokens
        if tokens.ndim == 2 and not of_tokens:
            return tokens[:, None], None
        if tokens.ndim == 3 and self.input == "mean":
            return mean_tokens(tokens, mask)[:, None], None
        if tokens.ndim == 3 and of_tokens:
            return tokens, mask
        wanted = "(B, N, D)" if of_tokens else "(B, D)"
        raise IceprobeError(
            f"a probe with input={self.input} got a tensor of shape {tuple(tokens.shape)}: "
            f"pass {wanted} or Tokens"
        )

    def _select(self, tokens: Tokens) -> tuple[Tensor, Tensor | None]:
        layers = tokens.layers if isinstance(tokens, JoinedTokens) else {}
        if missing := [layer for layer in self.read.layers if layer not in layers]:
            raise IceprobeError(
                f"a probe of layers {', '.join(map(str, self.read.layers))} got tokens without layer "
                f"{missing[0]}: pass JoinedTokens of all of them"
            )
        named = [
            (tokens if layer is None else layers[layer], name) for layer, name in self.read.parts
        ]
        parts = [self._part(one, name) for one, name in named]
        more = self.read.of_tokens and not self.read.wide  # tokens, not wider ones
        selected = parts[0] if len(parts) == 1 else torch.cat(parts, 1 if more else 2)
        if not self.read.of_tokens or all(one.mask is None for one, _ in named):
            return selected, None
        masks = [_mask_of(one, part) for (one, _), part in zip(named, parts, strict=True)]
        # Side by side in width, layers are of the same examples.
        return selected, torch.cat(masks, 1) if more else masks[0]

    def _part(self, tokens: Tokens, name: str) -> Tensor:
        """What the input ``name`` of one layer is, ``(B, N', D)``."""
        if name == "patches":
            return tokens.patches
        if name == "mean":
            return mean_tokens(tokens.patches, tokens.mask)[:, None]
        if name == "prefix+patches":
            return torch.cat([tokens.prefix, tokens.patches], 1)
        if name in MODEL_VECTORS:
            if name not in tokens.vectors:
                raise IceprobeError(no_vector(name, tokens.vectors))
            return tokens.vectors[name][:, None]
        if tokens.class_token is None:
            raise IceprobeError(
                f"a probe with input={self.input} got tokens without a class token: "
                f"take input={'mean' if name == 'class' else 'patches'}"
            )
        cls = tokens.class_token[:, None]
        return cls if name == "class" else torch.cat([cls, tokens.patches], 1)

    def patches_among(self, read: int, num_tokens: int) -> slice | list[int]:
        """Where the patches are among the tokens ``read``: behind the prefix tokens of each layer.

        Args:
            read: N', number of the tokens that the pooling reads.
            num_tokens: N, patches of a layer.
        """
        layers = 1 if self.read.wide else max(1, len(self.read.layers))
        each = read // layers
        if layers == 1:
            return slice(each - num_tokens, each)
        starts = [number * each + each - num_tokens for number in range(layers)]
        return [start + n for start in starts for n in range(num_tokens)]

    def on_patches(self, weights: Tensor, num_tokens: int) -> Tensor:
        """Weights ``(…, N')`` of the tokens that are read → of the N patches, summed over layers."""
        found = weights[..., self.patches_among(weights.shape[-1], num_tokens)]
        return (
            found.unflatten(-1, (-1, num_tokens)).sum(-2) if found.shape[-1] > num_tokens else found
        )

    def num_parameters(self) -> dict[str, int]:
        """Trainable parameters of ``pooling`` and ``classifier``, and their ``total``."""
        pooling = sum(p.numel() for p in self.pooling.parameters() if p.requires_grad)
        classifier = sum(p.numel() for p in self.classifier.parameters() if p.requires_grad)
        return {"pooling": pooling, "classifier": classifier, "total": pooling + classifier}

    def flops(self, num_tokens: int, num_prefix: int = 0) -> int:
        """FLOPs per image at inference, of all its parts: 2 × multiply–adds of all matrix products.

        Args:
            num_tokens: N, patch tokens.
            num_prefix: P, prefix tokens of the backbone.
        """
        macs = self.pooling.macs(self.tokens_read(num_tokens // self.parts, num_prefix))
        return 2 * self.parts * (macs + self.classifier.weight.numel())

    def tokens_read(self, num_tokens: int, num_prefix: int) -> int:
        """Number of an image's patch and prefix tokens that a pooling of patches reads."""
        (name, *_) = self.read.names
        each = num_tokens + PREFIX.get(name, num_prefix if name == "prefix+patches" else 0)
        return each if self.read.wide else each * max(1, len(self.read.layers))


def _mask_of(tokens: Tokens, part: Tensor) -> Tensor:
    """The mask of ``part`` of ``tokens``: patches behind prefix tokens, which are all there."""
    whole = part.new_ones(part.shape[:2], dtype=torch.bool)
    if tokens.mask is None:
        return whole
    return torch.cat([whole[:, : part.shape[1] - tokens.mask.shape[1]], tokens.mask], 1)


def _take_scale(probe: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the probe a scale if the state dict has one; those of earlier versions have none."""
    scale = state.get(f"{prefix}scale")
    probe.scale = None if scale is None else torch.empty_like(scale)


_ORDINARY = 4096  # the size of a pooling is checked if one of its options is larger
_MOST_PARAMETERS = 10**9  # of a pooling


def build_pooling(
    spec: Spec | str, dim: int, grid: tuple[int, ...] | None = None, **options: Any
) -> Pooling:
    """Build the pooling of a probe.

    Args:
        spec: such as ``"ep32"``; keys of other parts of the probe (``input``, ``layers``, ``join``,
            ``batch_norm``, ``complementarity``, ``entropy``) have no effect.
        dim: D, width of the tokens.
        grid: rows and columns of the patches, for poolings that need it.
        **options: keys of the spec string, ``out_dim=96``.

    Raises:
        IceprobeError: if the probe or an option is unknown or doesn't fit, the probe is ``knn``,
            or it needs a grid and there is none.

    Examples:
        >>> build_pooling("ep32", dim=768)(torch.randn(2, 196, 768)).shape
        torch.Size([2, 768])
    """
    spec, values = _resolve(spec, options)
    entry = PROBES[spec.name]
    of_layers = ("layers", "join") if takes_layers(spec.name) else ()
    for key in ("input", "batch_norm", *of_layers, *TERMS, *entry.solver):
        values.pop(key, None)
    if entry.needs_grid:
        if grid is None:
            raise IceprobeError(
                f"probe {probe_label(spec)!r} needs the grid of the patches and there is none: give "
                "grid=(rows, columns), or take a probe that works without, such as ep32"
            )
        values["grid"] = grid
    make = functools.partial(entry.load(), dim, **values)
    if any(isinstance(value, int) and value > _ORDINARY for value in values.values()):
        _check_size(make, spec)
    return make()


def _check_size(make: Callable[[], Pooling], spec: Spec) -> None:
    """Refuse a pooling that no memory holds, before it is built."""
    with torch.device("meta"):
        parameters = sum(p.numel() for p in make().parameters())
    if parameters > _MOST_PARAMETERS:
        raise IceprobeError(
            f"probe {probe_label(spec)!r} would have {parameters:,} parameters, "
            f"{4 * parameters / 1e9:,.0f} GB for each setting and seed: take smaller numbers"
        )


def build(
    spec: Spec | str,
    dim: int,
    num_classes: int,
    grid: tuple[int, ...] | None = None,
    has_class: bool = False,
    pooled_class: bool = False,
    vectors: Mapping[str, int] | None = None,
    **options: Any,
) -> Probe:
    """Build a probe.

    Args:
        spec: such as ``"ep32"`` or ``"linear?input=mean"``.
        dim: D, width of the tokens.
        num_classes: C.
        grid: rows and columns of the patches, for poolings that need it.
        has_class: whether the backbone has a class token, which ``linear`` reads by default.
        pooled_class: whether it was trained on the output of a learned pooler; ``linear`` then
            reads the mean by default.
        vectors: width of each vector that the model itself computes (`Tokens.vectors`).
        **options: keys of the spec string.

    Raises:
        IceprobeError: as `build_pooling`, and if the input needs a class token or vector that the
            model doesn't have.

    Examples:
        >>> build("ep32", dim=768, num_classes=1000).num_parameters()["total"]
        1383400
    """
    spec, values = _resolve(spec, options)
    shape = TokenShape(dim, 0, 0, grid, has_class, vectors or {}, pooled_class)
    return _built(shape, spec, values, num_classes)


def build_for(
    shape: TokenShape,
    spec: Spec | str,
    num_classes: int,
    seed: int | None = None,
    task: Task | None = None,
) -> Probe:
    """A probe for tokens of ``shape``; a seed alone determines its initial weights.

    ``task``: what its outputs are, needed of examples in parts.

    Raises:
        IceprobeError: as :func:`build`, and if it reads patch tokens and there are none, or names layers
            that the tokens aren't of, or examples differ in length and it reads no mask, or are in parts and it
            reads prefix tokens.
    """
    reads = probe_options(parse_probe(str(spec))).get("input") or ""
    if not shape.num_tokens and reads.endswith("patches"):
        raise IceprobeError(
            f"probe {probe_label(spec)!r} reads several tokens an example and there is one vector of "
            "each: take knn or linear, or give tokens, (n, N, D)"
        )
    if shape.lengths is not None and (why := PROBES[parse_probe(str(spec)).name].one_length):
        raise IceprobeError(
            f"probe {probe_label(spec)!r} reads examples of one number of tokens, since {why}, and these "
            f"have {shape.lengths[0]:,} to {shape.lengths[1]:,}: take one for any number, such as ep32"
        )
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # of the CPU only: others aren't forked
        spec, values = _resolve(spec, {})
        return _built(shape, spec, values, num_classes, task)


def _built(
    shape: TokenShape,
    spec: Spec,
    values: Mapping[str, Any],
    num_classes: int,
    task: Task | None = None,
) -> Probe:
    read = input_of(shape, spec)
    pooling = build_pooling(spec, read.width(shape), shape.part_grid)
    if shape.ragged and read.of_tokens:
        _check_reads_masks(pooling, probe_label(spec))
    if shape.parts > 1 and read.of_tokens and read.names != ("patches",):
        raise IceprobeError(
            f"probe {probe_label(spec)!r} reads prefix tokens, and those of examples in parts are one mean over "
            f"the {shape.parts} parts: take input=patches"
        )
    return Probe(
        pooling,
        num_classes,
        input=str(read),
        batch_norm=values.get("batch_norm", PROBES[spec.name].batch_norm),
        regularisation=Regularisation(**{term: values.get(term, 0.0) for term in TERMS}),
        parts=shape.parts if read.of_tokens else 1,
        task=task,
    )


def _check_reads_masks(pooling: Pooling, label: str) -> None:
    """Refuse a pooling of one's own that takes no mask, or whose predictor reads padding."""
    methods = ["forward"]
    if isinstance(pooling, AttentivePooling):
        methods += ["prepare", "scores", "normalise"]
    for name in methods:
        if not takes_mask(getattr(pooling, name)):
            raise IceprobeError(
                f"probe {label!r} can't read examples of several lengths: {name} of "
                f"{type(pooling).__name__} has no argument mask, (B, N) bool, True where a row is a token; "
                "add it, or take another probe, such as ep32"
            )
    if isinstance(pooling, ComposedPooling) and pooling.reads_padding():
        raise IceprobeError(
            f"probe {label!r} can't read examples of several lengths: its predictor scores a token by "
            "others, padding among them; give it an argument mask, (B, N) bool, True where a row is a "
            "token, or take another probe, such as ep32"
        )


def _check_terms(pooling: Pooling, terms: Regularisation) -> None:
    if terms and not isinstance(pooling, QueryPooling):
        raise IceprobeError(
            f"{type(pooling).__name__} has no scores that are linear in the tokens: take "
            "complementarity and entropy with ep, mhca or aim"
        )
    if terms.complementarity and pooling.num_predictors < 2:
        raise IceprobeError(
            f"complementarity={terms.complementarity:g} compares an image's attention maps and "
            f"the probe has {pooling.num_predictors}: take 2 or more, such as "
            f"ep8?complementarity={terms.complementarity:g}"
        )


def _resolve(spec: Spec | str, options: dict[str, Any]) -> tuple[Spec, dict[str, Any]]:
    """The canonical spec with ``options`` merged in, and typed values of all its options."""
    written = parse_spec(str(spec))
    texts = {key: as_text(value) for key, value in options.items()}
    spec = parse_probe(str(replace(written, options={**written.options, **texts})))
    if PROBES[spec.name].target is None:
        raise IceprobeError(
            f"probe {spec.name!r} is training-free and has no module: use iceprobe.knn"
        )
    return spec, probe_options(spec)
