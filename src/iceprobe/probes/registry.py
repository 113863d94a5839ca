"""All probes, and the spec strings that name them. Imports no torch."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from iceprobe.core.errors import IceprobeError
from iceprobe.core.registry import Entry, Registry
from iceprobe.core.specs import (
    MOST,
    Spec,
    above_zero,
    as_text,
    boolean,
    one_of,
    parse_spec,
    typed_options,
    unknown,
)

# Vectors that some models compute themselves: the output of a learned pooler, and the class token
# in the space shared with text.
MODEL_VECTORS = ("pooled", "class_projected")
VECTORS = ("class", "mean", *MODEL_VECTORS)  # inputs with one vector per image
# Learning rates to try, around the best one measured for each kind (docs/selection.md).
RATES = (1e-3, 3e-3, 1e-2)
_MIDDLE_RATES = (3e-4, 1e-3, 3e-3)
_LOW_RATES = (3e-5, 1e-4, 3e-4)
# Weight decays to try for a probe of more than 10⁶ parameters; smaller ones get none.
DECAYS = (0.0, 0.1)
# Terms of the training loss that read the attention (`probes/regularisation.py`).
TERMS = ("complementarity", "entropy")


@dataclass(frozen=True)
class Option:
    """One key of a probe's spec string."""

    convert: Callable[[str], Any]  # text → value; its ValueError says what is valid
    default: str | None = None  # as text; None where it follows from the tokens, as for out_dim


@dataclass(frozen=True)
class ProbeEntry(Entry):
    """One probe.

    Attributes:
        equation: the definition in one line.
        source: publication.
        number: the option that a number after the name sets (``ep32``), if there is one.
        default_number: its value if the name has no number, or a function of the other options;
            ``None`` where it follows from the tokens.
        options: every key of its spec string.
        needs_grid: whether its constructor takes the ``grid`` of the patches.
        one_length: why it reads only examples of one number of tokens; empty: it reads masks.
        variants: spec strings with another definition → their equations, for
            ``iceprobe ls probes``.
        learning_rates: to try under ``heldout``, if the user gives none.
        weight_decays: likewise, for more than 10⁶ parameters.
        batch_norm: whether the descriptor is normalised, if no option ``batch_norm`` says.
        solver: keys of the spec string that say how it is solved for its optimum, whatever the
            protocol (`fitting/linear.py`); a probe without any is trained.
        tasks: names of the only tasks that it is for; empty for any.
    """

    equation: str
    source: str
    number: str | None = None
    default_number: int | Callable[[Mapping[str, str]], int] | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    needs_grid: bool = False
    one_length: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = RATES
    weight_decays: tuple[float, ...] = DECAYS
    batch_norm: bool = True
    solver: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()


def no_vector(name: str, vectors: Iterable[str]) -> str:
    """Error text: the model, or this layer of it, has no vector ``name``; the inputs it has."""
    known = " or ".join([*vectors, "class", "mean"])
    return f"this backbone (or this layer of it) has no {name} output: take input={known}"


def parse_probe(text: str) -> Spec:
    """Parse ``ep32``, ``ep48?out_dim=96``, … and check every key and value.

    The result is canonical: the number after the name becomes an option (``queries``, ``heads``)
    and options equal to their default are left out, so all ways to write a probe give equal specs.

    Raises:
        IceprobeError: for an unknown probe (with the nearest ones), an unknown key (with all
            keys), a value that doesn't convert, or a number that is given twice or not allowed.
    """
    spec = parse_spec(text)
    if spec.kind:
        raise IceprobeError(f"probe {text!r} has a kind: write {text.partition(':')[2]!r}")
    name, digits = spec.name, ""
    if name not in PROBES and (match := re.fullmatch(r"(.+?)(\d+)", name)):
        name, digits = match.groups()
    if name not in PROBES:
        raise IceprobeError(unknown("probe", name, PROBES))
    entry, options = PROBES[name], dict(spec.options)
    if digits:
        if entry.number is None:
            raise IceprobeError(f"probe {name!r} takes no number, {text!r} has one: write {name!r}")
        if entry.number in options:
            raise IceprobeError(f"{entry.number} is given twice in {text!r}: keep one")
        options[entry.number] = digits
    elif entry.number is not None and entry.default_number is not None:
        default = entry.default_number
        number = default(options) if callable(default) else default
        options.setdefault(entry.number, str(number))
    texts = {key: as_text(value) for key, value in _typed(name, options).items()}
    changed = {key: text for key, text in texts.items() if text != entry.options[key].default}
    return Spec(None, name, changed)


def probe_label(spec: Spec | str) -> str:
    """The shortest canonical text of a probe: ``ep32``, ``ep48?out_dim=96``, ``linear``."""
    spec = parse_probe(str(spec))
    options = dict(spec.options)
    number = options.pop(PROBES[spec.name].number or "", "")
    return str(Spec(None, spec.name + number, options))


def probe_options(spec: Spec | str) -> dict[str, Any]:
    """Typed values of every option that ``spec`` sets or that has a default."""
    spec = parse_probe(str(spec))
    options = PROBES[spec.name].options
    texts = {key: option.default for key, option in options.items() if option.default is not None}
    return _typed(spec.name, {**texts, **spec.options})


def _typed(name: str, options: Mapping[str, str]) -> dict[str, Any]:
    types = {key: option.convert for key, option in PROBES[name].options.items()}
    return typed_options(Spec(None, name, options), types)


def register(
    name: str,
    target: Callable[..., Any],
    summary: str,
    *,
    equation: str = "",
    source: str = "",
    number: str | None = None,
    learning_rates: Sequence[float] = RATES,
) -> None:
    """Register a probe of your own: the arguments of ``target`` become the keys of its spec string.

    Args:
        name: its name in spec strings.
        target: ``(dim, …) -> Pooling``. An argument ``grid`` gets the grid of the patches. All
            others have a default and are ``int`` (positive), ``float``, ``bool`` or ``str``.
            The keys ``input`` and ``batch_norm`` are added, and ``layers`` and ``join`` if it has no
            argument called like one of these two.
        summary: one line for ``iceprobe ls``.
        equation: the definition in one line.
        source: publication.
        number: the argument that a number after the name sets.
        learning_rates: to try under ``heldout``, if a fit is given none; the grid grows while its
            best value is on the edge.

    Raises:
        IceprobeError: if the name is taken or has other characters than letters and underscores,
            an argument has another type, or a learning rate isn't above 0.
    """
    if not learning_rates or min(learning_rates) <= 0:
        raise IceprobeError(
            f"probe {name!r}: learning_rates={tuple(learning_rates)}: give positive numbers"
        )
    if not re.fullmatch(r"[^\W\d]+", name):
        raise IceprobeError(f"{name!r} isn't a name for a probe: take letters and underscores only")
    arguments = dict(list(inspect.signature(target, eval_str=True).parameters.items())[1:])
    needs_grid = arguments.pop("grid", None) is not None
    if number is not None and (number not in arguments or not arguments[number].default):
        raise IceprobeError(f"probe {name!r}: its number {number!r} is no argument with a default")
    own = {
        key: Option(
            _converter(name, argument),
            None if key == number or argument.default is None else as_text(argument.default),
        )
        for key, argument in arguments.items()
    }
    entry = ProbeEntry(
        target,
        summary,
        equation=equation,
        source=source,
        number=number,
        default_number=arguments[number].default if number else None,
        options={**own, **_without(own, _SPATIAL if needs_grid else _ATTENTIVE)},
        needs_grid=needs_grid,
        learning_rates=tuple(learning_rates),
    )
    PROBES.register(name, entry)


def takes_layers(name: str) -> bool:
    """Whether a probe may read several layers: it has no argument of its own called like their keys."""
    return PROBES[name].options.get("layers") is _LAYERS


def _without(own: Mapping[str, Option], added: Mapping[str, Option]) -> dict[str, Option]:
    """The keys that are added to a probe's own; none for layers if one of these is taken."""
    of_layers = {"layers", "join"}
    return {k: v for k, v in added.items() if k not in of_layers or not of_layers & own.keys()}


def _converter(name: str, argument: inspect.Parameter) -> Callable[[str], Any]:
    """By an argument's annotation, in which ``None`` is ignored."""
    kinds = set(get_args(argument.annotation) or (argument.annotation,)) - {type(None)}
    converters: dict[Any, Callable[[str], Any]] = {
        int: _positive, float: float, bool: boolean, str: str,
    }  # fmt: skip
    kind = kinds.pop()
    if kinds or kind not in converters or argument.default is inspect.Parameter.empty:
        raise IceprobeError(
            f"probe {name!r}: {argument} can't be a key of a spec string: annotate it as int, "
            "float, bool or str and give it a default"
        )
    return converters[kind]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("write a whole number of at least 1")
    return int(text)


def _strength(text: str) -> float:
    """A number above 0; a whole one is written without a point."""
    value = above_zero(text)
    return int(value) if value.is_integer() and value <= MOST else value


def _simpool_heads(options: Mapping[str, str]) -> int:
    return 12 if options.get("linear", "true").lower() == "false" else 1


def layer_numbers(text: str) -> tuple[int, ...]:
    """``-2,-1``: layers of the backbone, from 0, or from −1, the last."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError("write layers by their numbers, such as -2,-1 (the last two)") from None


def vectors_named(text: str) -> str:
    """``class+mean``: vectors to be concatenated, each one of `VECTORS`."""
    names = text.split("+")
    if len(set(names)) < len(names) or not set(names) <= set(VECTORS):
        raise ValueError(f"write {' or '.join(VECTORS)}, or several as class+mean, each once")
    return text


def _inputs(*choices: str) -> dict[str, Option]:
    """The keys that every trained probe has; the first choice is the default input."""
    return {
        "input": Option(one_of(*choices), choices[0]),
        "batch_norm": Option(boolean, "true"),
        "layers": _LAYERS,
    }


def _numbered(
    number: str,
    default: int | Callable[[Mapping[str, str]], int] | None,
    options: Mapping[str, Option],
    **own: Option,
) -> dict[str, Any]:
    """Arguments of the entry of a probe with a number after its name, and its own options."""
    all_options = {number: Option(_positive), **own, **options}
    return {"number": number, "default_number": default, "options": all_options}


_OUT_DIM = Option(_positive)
_LAYERS = Option(layer_numbers)
_VECTORS = {"input": Option(vectors_named), "layers": _LAYERS}
_JOIN = one_of("tokens", "width")
# Tokens of several layers are more tokens: the probe has the parameters that it has on one layer.
_ATTENTIVE = _inputs("patches", "class+patches", "prefix+patches") | {
    "join": Option(_JOIN, "tokens")
}
_TERM = Option(lambda text: float(text) + 0.0, "0.0")  # -0 becomes 0
# Where scores are linear in the tokens, a fit has the attention that the terms read.
_REGULARISED = {**_ATTENTIVE, **dict.fromkeys(TERMS, _TERM)}
# A place of the grid is one token, so layers have to be joined in width, which the label says.
_SPATIAL = _inputs("patches") | {"join": Option(_JOIN)}

PROBES: Registry[ProbeEntry] = Registry(
    "probe",
    {
        "knn": ProbeEntry(
            None,
            "k nearest neighbours by cosine, weighted; nothing is trained",
            equation="argmax_c Σ_{i ∈ kNN} exp(cos(x, x_i)/T)·[c_i = c]",
            source="Wu et al., CVPR 2018",
            options=_VECTORS,
            variants={
                "knn?input=class+mean&layers=-2,-1": "x = [x_cls of each layer; mean_N(X) of the last]"
            },
        ),
        "linear": ProbeEntry(
            "iceprobe.probes.linear:Linear",
            "a linear classifier on the class token or on the mean of patches",
            equation="y = x_cls, or mean_N(X) without a class token",
            source="standard linear probing",
            options={**_VECTORS, "batch_norm": Option(boolean, "true")},
            variants={
                "linear?input=mean": "y = mean_N(X)",
                "linear?input=class+mean": "y = [x_cls; mean_N(X)]",
                "linear?input=class+mean&layers=-4,-3,-2,-1": "y = [x_cls of each layer; mean_N(X) "
                "of the last]: DINOv2's linear evaluation",
            },
        ),
        "logreg": ProbeEntry(
            "iceprobe.probes.linear:Linear",
            "logistic regression on standardised features by L-BFGS, C on a published grid",
            equation="min_W,b mean_i CE(W x̂_i + b, y_i) + ‖W‖²/(2Cn), x̂ = (x − mean)/sd",
            source="Kornblith et al., Do Better ImageNet Models Transfer Better?; Radford et al., "
            "Learning Transferable Visual Models; Oquab et al., DINOv2",
            options={
                **_VECTORS,
                "C": Option(_strength),
                "grid": Option(one_of("dinov2", "clip"), "dinov2"),
            },
            variants={
                "logreg?grid=clip": "the same, C by halving its steps around the best",
                "logreg?C=1": "the same at one C: scikit-learn's default",
            },
            batch_norm=False,
            solver=("C", "grid"),
            tasks=("classification", "multilabel"),
        ),
        "ridge": ProbeEntry(
            "iceprobe.probes.linear:Linear",
            "ridge regression on standardised features in closed form, for numbers",
            equation="min_W,b Σ_i (W x̂_i + b − y_i)² + alpha ‖W‖², x̂ = (x − mean)/sd",
            source="Hoerl and Kennard, Ridge Regression",
            options={**_VECTORS, "alpha": Option(_strength)},
            batch_norm=False,
            solver=("alpha",),
            tasks=("regression",),
        ),
        "max": ProbeEntry(
            "iceprobe.probes.max_pool:MaxPool",
            "of every channel the largest value over the patches: nothing to learn before the classifier",
            equation="y_d = max_n x_nd",
            source="Wang et al., Revisiting Multiple Instance Neural Networks",
            options=_ATTENTIVE,
        ),
        "mean_value": ProbeEntry(
            "iceprobe.probes.mean_value:MeanValue",
            "mean of patches through W_V: efficient probing without attention",
            equation="y = W_V mean_N(X)",
            source="Psomas et al., Attention, Please! (ablation)",
            options={"out_dim": _OUT_DIM, **_inputs("mean")},
        ),
        "ep": ProbeEntry(
            "iceprobe.probes.ep:EfficientProbing",
            "efficient probing: M learned queries over raw tokens, one value slice each",
            equation="a_j = softmax_N(X u_j/√D), y_j = W_Vj X a_j",
            source="Psomas et al., Attention, Please! Revisiting Attentive Probing",
            learning_rates=_MIDDLE_RATES,
            **_numbered(
                "queries",
                32,
                _REGULARISED,
                out_dim=_OUT_DIM,
                value=Option(one_of("linear", "identity"), "linear"),
                query=Option(one_of("full", "sliced"), "full"),
            ),
            variants={
                "ep12?value=identity": "a_j = softmax_N(X u_j/√D), y_j = slice j of Xᵀa_j",
                "ep12?query=sliced": "a_j = softmax_N(X_j u_j·√(M/D)), X_j = slice j of X, "
                "y_j = W_Vj X a_j",
                "ep32?layers=-2,-1": "X = the tokens of all layers, (L·N, D)",
                "ep32?join=width&layers=-2,-1": "X = each place's tokens of all layers, (N, L·D)",
            },
        ),
        "mhca": ProbeEntry(
            "iceprobe.probes.mhca:MultiHeadCrossAttention",
            "multi-head cross-attention with one learned query",
            equation="a_j = softmax_N(X W_Kjᵀ q_j·√(M/D_a)), y_j = W_Vj X a_j",
            source="Psomas et al., Attention, Please! (reference of the equivalence)",
            learning_rates=_MIDDLE_RATES,
            **_numbered("heads", 12, _REGULARISED, attn_dim=_OUT_DIM, out_dim=_OUT_DIM),
        ),
        "aim": ProbeEntry(
            "iceprobe.probes.aim:AIM",
            "cross-attention on batch-normalised tokens",
            equation="X̂ = BatchNorm(X), a_j = softmax_N(X̂ W_Kjᵀ q_j·√(M/D)), y_j = W_Vj X̂ a_j",
            source="El-Nouby et al., Scalable Pre-training of Large Autoregressive Image Models",
            learning_rates=_MIDDLE_RATES,
            **_numbered("heads", 12, _REGULARISED),
        ),
        "abmilp": ProbeEntry(
            "iceprobe.probes.abmilp:abmilp",
            "attention-based multiple-instance learning: a small network scores each token",
            equation="a = softmax_N(w₂ᵀ tanh(W₁X)), y = X a",
            source="Przewięźlikowski et al., Beyond [cls]; Ilse et al., Attention-based Deep Multiple "
            "Instance Learning",
            learning_rates=_MIDDLE_RATES,
            options={
                "depth": Option(lambda text: int(one_of("1", "2")(text)), "2"),
                "self_attention": Option(boolean, "false"),
                "gated": Option(boolean, "false"),
                "hidden": _OUT_DIM,
                **_ATTENTIVE,
            },
            variants={
                "abmilp?depth=1": "a = softmax_N(wᵀX), y = X a",
                "abmilp?gated=true&hidden=128": "a = softmax_N(w₂ᵀ(tanh(W₁X) ⊙ σ(W_g X))), y = X a, "
                "W₁ and W_g of 128 rows: Ilse et al.'s gated attention",
                "abmilp?self_attention=true": "X ← SelfAttention(X), "
                "a = softmax_N(w₂ᵀ tanh(W₁X)), y = X a",
            },
        ),
        "dsmil": ProbeEntry(
            "iceprobe.probes.dsmil:DSMIL",
            "dual-stream multiple-instance learning: attention to the highest-scored token, and its score",
            equation="c_j = X w_j, m_j = argmax_n c_nj, a_j = softmax_N(X W_QᵀW_Q x_{m_j}/√A), "
            "y = [Xᵀa_1 … Xᵀa_M, max c_1 … max c_M]; the publication has M = C",
            source="Li et al., Dual-stream Multiple Instance Learning Network",
            learning_rates=_MIDDLE_RATES,
            **_numbered("queries", 1, _ATTENTIVE, attn_dim=Option(_positive, "128")),
        ),
        "block": ProbeEntry(
            "iceprobe.probes.block:Block",
            "one transformer block over all tokens, then their mean",
            equation="Z = X + MHSA(LN X), y = mean_N(Z + MLP(LN Z))",
            source="Dosovitskiy et al., An Image is Worth 16x16 Words",
            learning_rates=_MIDDLE_RATES,
            **_numbered("heads", 8, _ATTENTIVE),
        ),
        "delf": ProbeEntry(
            "iceprobe.probes.delf:DELF",
            "attentive local features: a positive score for each unit token, not normalised",
            equation="z = BN(W x + b), s = softplus(wᵀReLU(z) + c), y = mean_N(s·z/‖z‖₂)",
            source="Noh et al., Large-Scale Image Retrieval with Attentive Deep Local Features",
            options=_ATTENTIVE,
        ),
        "cbam": ProbeEntry(
            "iceprobe.probes.cbam:CBAM",
            "convolutional block attention: a gate for every channel, then one for every place",
            equation="X' = X⊙σ(MLP(mean_N X) + MLP(max_N X)), "
            "g = σ(BN(conv₇ₓ₇[mean_D X', max_D X'])), y = mean_N ReLU(X + X'⊙g)",
            source="Woo et al., CBAM: Convolutional Block Attention Module",
            options=_SPATIAL,
            needs_grid=True,
            one_length="it convolves the map of an image's patches",
        ),
        "slot": ProbeEntry(
            "iceprobe.probes.slot:SlotAttention",
            "slot attention: M slots compete for the tokens, in T iterations",
            equation="w = softmax_M(k W_q LN(s_j)/√D) ÷ Σ_N, s_j ← GRU(Σ_n w_jn v_n, s_j), "
            "s_j ← s_j + MLP(LN s_j); T times, then y = mean_M s",
            source="Locatello et al., Object-Centric Learning with Slot Attention",
            learning_rates=_MIDDLE_RATES,
            **_numbered("queries", 8, _ATTENTIVE, iterations=Option(_positive, "3")),
        ),
        "simpool": ProbeEntry(
            "iceprobe.probes.simpool:SimPool",
            "the mean token asks; keys and values are layer-normalised patches",
            equation="a = softmax_N(LN(X) W_Kᵀ W_Q x̄/√D), y = LN(X)ᵀ a",
            source="Psomas et al., Keep It SimPool",
            **_numbered("heads", _simpool_heads, _ATTENTIVE, linear=Option(boolean, "true")),
            variants={
                "simpool?linear=false": "X̂ = LN(X), a_j = softmax_N(X̂_j x̂_j·√(M/D)), "
                "y_j = slice j of Xᵀa_j"
            },
        ),
        "clip": ProbeEntry(
            "iceprobe.probes.clip:CLIP",
            "CLIP's attention pool: self-attention with positions, read at the mean token",
            equation="Z = [mean(LN X); LN X] + P, y = W_O·MHA(z_0, Z)",
            source="Radford et al., Learning Transferable Visual Models",
            **_numbered("heads", 4, _SPATIAL),
            needs_grid=True,
            one_length="it learns a position for each token",
        ),
        "siglip": ProbeEntry(
            "iceprobe.probes.siglip:SigLIP",
            "SigLIP's head: attention by one latent query, then an MLP",
            equation="x = W_O·MHA(l, X), y = x + MLP(x)",
            source="Zhai et al., Sigmoid Loss for Language Image Pre-Training",
            learning_rates=(1e-4, 3e-4, 1e-3),
            **_numbered("heads", 8, _REGULARISED),
        ),
        "vjepa": ProbeEntry(
            "iceprobe.probes.vjepa:VJEPA",
            "V-JEPA's probe: a cross-attention block with one learned query",
            equation="z = q + W_O·MHA(q, LN X), y = z + MLP(LN z)",
            source="Bardes et al., Revisiting Feature Prediction",
            learning_rates=_MIDDLE_RATES,
            **_numbered("heads", 16, _REGULARISED, proj=Option(boolean, "true")),
            variants={
                "vjepa?proj=false": "z = q + MHA(q, LN X) without W_O, y = z + MLP(LN z): the "
                "encoder authors' own"
            },
        ),
        "cait": ProbeEntry(
            "iceprobe.probes.cait:CaiT",
            "CaiT's class attention: a learned class token attends to itself and to the patches",
            equation="z = c + γ₁ W_O·MHA(c, LN[c; X]), y = LN(z + γ₂ MLP(LN z))",
            source="Touvron et al., Going deeper with Image Transformers",
            learning_rates=_LOW_RATES,
            **_numbered("heads", 4, _ATTENTIVE),
        ),
        "cae": ProbeEntry(
            "iceprobe.probes.cae:CAE",
            "CAE's probe: cross-attention, a LayerNorm each for query, keys and values",
            equation="y = W_O·MHA(LN q, LN X, LN X)",
            source="Chen et al., Context Autoencoder for Self-Supervised Representation Learning",
            learning_rates=_LOW_RATES,
            **_numbered("heads", 8, _REGULARISED),
        ),
        "coca": ProbeEntry(
            "iceprobe.probes.coca:CoCa",
            "CoCa's pooler: query heads of 64 over one shared key and value head",
            equation="a_j = softmax_N(X W_Kᵀ q_j/8), y_j = W_V X a_j, y = W_O[y_1 … y_M]",
            source="Yu et al., CoCa: Contrastive Captioners are Image-Text Foundation Models",
            learning_rates=_LOW_RATES,
            **_numbered("heads", 8, _REGULARISED, queries=Option(_positive, "1")),
            variants={
                "coca?queries=196": "the same of the first of 196 queries, over all of which LARS's "
                "trust ratio is: the published code's"
            },
        ),
        "capi": ProbeEntry(
            "iceprobe.probes.capi:CAPI",
            "CAPI's probe: one learned query, D/64 heads unless said",
            equation="a_j = softmax_N(X W_Kjᵀ q_j·√(M/D)), y_j = W_Vj X a_j + b_Vj",
            source="Darcet et al., Cluster and Predict Latent Patches",
            learning_rates=_MIDDLE_RATES,
            **_numbered("heads", None, _REGULARISED),
        ),
    },
)
