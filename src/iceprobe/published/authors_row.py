"""A run as a row of the authors' ``results.csv``, the table of their benchmark (README, "Contributing a row").

They ask for ImageNet-1k, 90 epochs of LARS with 4,096 images a step, and the best epoch on the validation split. A run
that is made otherwise has other numbers, and gets no row.
"""

import re
from collections.abc import Mapping, Sequence

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec, unknown
from iceprobe.published.differences import Differs, differences
from iceprobe.published.matching import IMAGENET, data_of, encoder_of
from iceprobe.published.rows import DATA, Encoder, Figure, encoders, figures
from iceprobe.results.schema import Result

COLUMNS = (
    "family", "method", "arch", "pretrain", "eval", "image_size", "lp", "lp_gap", "ep", "ep_queries", "ep_variant",
    "model", "loader", "pretrain_tag", "finetune", "lp_variant", "lp_log", "ep_log", "notes", "verified", "amp",
    "waiting", "gap_reason", "knn", "knn_k", "knn_T", "knn_log", "extra_flags", "ep_head",
)  # fmt: skip
#: What a row says that a run doesn't record, with its values where there are few.
GIVEN: dict[str, tuple[str, ...]] = {
    "family": ("MIM", "JEA", "Hybrid", "VLM", "GEN"),
    "method": (),
    "arch": (),
    "pretrain": (),
    "image_size": (),
    "gap_reason": ("no_cls", "attn_pool"),
}
_FAMILIES = {
    "masked image modelling": "MIM",
    "joint embedding": "JEA",
    "hybrid": "Hybrid",
    "vision-language": "VLM",
    "generative": "GEN",
}
_LOADERS = {"timm": "timm", "open_clip": "openclip"}
_VARIANTS = {"patches": "ep", "class+patches": "ep_all"}
_LINEAR = {"class": "cls", "class_projected": "cls", "mean": "pos"}
_GAPS = {
    "no class token": "no_cls",
    "its pooled output is learned": "attn_pool",
}  # notes of figures
_EP = re.compile(r"ep(\d+)(\?input=(class\+)?patches)?")
_FIXED = ("optimiser", "epochs", "images a step")  # what every row has alike


def row_of(results: Sequence[Result], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """The row of a run, a text for each of `COLUMNS`.

    Args:
        results: of one backbone on ImageNet-1k under ``"paper"``: a linear probe, EP, and k-NN if there is one. Of
            several EPs the best counts, of several linear probes the one that the authors' rule names.
        given: values of `GIVEN`, where neither the run nor a published row of the encoder has them.

    Raises:
        IceprobeError: for a run that the authors' table has no place for, or a value that is missing or that the
            table doesn't know.
    """
    given = dict(given or {})
    for key, value in given.items():
        if key not in GIVEN:
            raise IceprobeError(unknown("field of a row", key, GIVEN))
        if GIVEN[key] and value not in GIVEN[key]:
            raise IceprobeError(unknown(key, value, GIVEN[key]))
    own = [one for one in results if one.test_of is None and one.adaptation is None]
    _check(own)
    ep = _best([one for one in own if _EP.fullmatch(one.probe)], "EP", "ep32")
    encoder = encoder_of(ep.backbone)
    linear = _linear(own, encoder)
    for one in (linear, ep):
        _check_training(one, encoder)
    read = _LINEAR[_read(linear, encoder) or ""]
    neighbours = [
        one for one in own if one.method == "knn" and _read(one, encoder) == _read(linear, encoder)
    ]
    known = _known(ep, encoder) | given
    if read == "pos" and "gap_reason" not in known:
        raise IceprobeError(
            "the linear probe reads the mean of the patches: say why with gap_reason=no_cls (the encoder has no class "
            "token) or gap_reason=attn_pool (its own learned attention makes its pooled output)"
        )
    if missing := [key for key in GIVEN if key not in known and key != "gap_reason"]:
        wanted = "&".join(f"{key}=…" for key in missing)
        raise IceprobeError(
            f"{ep.backbone}: what the row needs isn't known, {', '.join(missing)}: say ep?{wanted}"
        )
    queries, variant = _EP.fullmatch(ep.probe), parse_spec(ep.probe).options.get("input", "patches")
    assert queries is not None, "it was chosen by this pattern"
    row = dict.fromkeys(COLUMNS, "") | {key: known[key] for key in GIVEN if key != "gap_reason"}
    row |= {
        "eval": "IN-1K",
        "lp": _percent(linear),
        "lp_gap": "yes" if read == "pos" else "no",
        "gap_reason": known.get("gap_reason", "") if read == "pos" else "",
        "lp_variant": read,
        "ep": _percent(ep),
        "ep_queries": queries[1],
        "ep_variant": _VARIANTS[variant],
        "notes": _notes(ep, encoder),
        **_loaded(ep.backbone),
    }
    if neighbours:
        one = neighbours[0]
        k, temperature = one.selected["k"], one.selected["temperature"]
        row |= {"knn": _percent(one), "knn_k": str(k), "knn_T": str(temperature)}
    return row


def _check(results: Sequence[Result]) -> None:
    """Refuse what isn't one encoder on all of ImageNet-1k under the publication's protocol."""
    backbones = dict.fromkeys(one.backbone for one in results)
    if len(backbones) != 1:
        raise IceprobeError(
            f"a row is of one frozen backbone and the run has {len(backbones)}: name a run of one"
        )
    (first, *_) = results
    if data_of(first)[0] != IMAGENET:
        raise IceprobeError(
            f"{first.dataset}: every row of the authors' table is of ImageNet-1k; name a run on imagenet1k"
        )
    for one in results:
        if not one.selected_on_reported:
            raise IceprobeError(
                f"{one.label} was selected on {one.selected_on}, and every row of the authors' table is the best epoch "
                "on the reported split: run again with --protocol paper"
            )
        sizes = (one.train_images, one.test_images)
        if sizes != (DATA[IMAGENET].train, DATA[IMAGENET].reported):
            raise IceprobeError(
                f"{one.label} is of {sizes[0]} training and {sizes[1]} test images, and a row is of all 1,281,167 and "
                "50,000: run again without --limit"
            )


def _check_training(one: Result, encoder: Encoder | None) -> None:
    """Refuse a probe that was trained otherwise than every row of the table."""
    for differs in _differences(one, encoder):
        if differs.what in _FIXED:
            raise IceprobeError(
                f"{one.label} has {differs.what} {differs.here}, and every row of the authors' table {differs.published}: "
                "run again with --protocol paper and no options of the training"
            )


def _best(found: Sequence[Result], noun: str, example: str) -> Result:
    if not found:
        raise IceprobeError(
            f"the run has no {noun}, which a row has: run again with --probe {example}"
        )
    return max(found, key=lambda one: one.metrics["top1"].mean)


def _linear(results: Sequence[Result], encoder: Encoder | None) -> Result:
    """The linear probe that the authors' rule names: of the class token, or of the mean where there is none."""
    found = [one for one in results if one.probe.partition("?")[0] == "linear"]
    told = [one for one in found if _read(one, encoder) is not None]
    if found and not told:
        raise IceprobeError(
            f"{found[0].label} of {found[0].backbone} reads the class token, or the mean where there is none, and a run "
            "doesn't record which: run again with --probe linear?input=class or linear?input=mean"
        )
    by_read = {_LINEAR[read]: one for one in told if (read := _read(one, encoder)) in _LINEAR}
    found = [*by_read.values()]
    figure = _linear_figure(encoder)
    wanted = _LINEAR.get(figure.reads, "cls") if figure else "cls"
    if wanted in by_read:
        return by_read[wanted]
    if figure is not None and found:
        raise IceprobeError(
            f"the published rows read {figure.reads} of {figure.encoder} in the linear probe: run again with --probe "
            f"linear?input={figure.reads}"
        )
    return _best(found, "linear probe", "linear")


def _linear_figure(encoder: Encoder | None) -> Figure | None:
    """The benchmark's own linear figure of an encoder."""
    if encoder is None:
        return None
    wanted = ("ep-benchmark", encoder.name, "linear")
    return next((one for one in figures() if (one.source, one.encoder, one.probe) == wanted), None)


def _read(one: Result, encoder: Encoder | None) -> str | None:
    """What a linear probe or k-NN reads; without ``input=`` what the published row of its encoder reads, which
    follows the same rule. None of another encoder: it has a class token or not."""
    figure = _linear_figure(encoder)
    return parse_spec(one.probe).options.get("input") or (figure.reads if figure else None)


def _known(one: Result, encoder: Encoder | None) -> dict[str, str]:
    """What the run and the published encoder say of the fields of `GIVEN`."""
    found = {}
    if one.paradigm in _FAMILIES:
        found["family"] = _FAMILIES[one.paradigm]
    if encoder is not None:
        found["method"], _, found["arch"] = encoder.name.partition(" ")
        found["pretrain"] = encoder.pretraining
        if one.grid is not None:
            found["image_size"] = str(one.grid[0] * encoder.patch)
        figure = _linear_figure(encoder)
        if figure is not None and figure.note in _GAPS:
            found["gap_reason"] = _GAPS[figure.note]
    return {key: value for key, value in found.items() if value}


def _loaded(backbone: str) -> dict[str, str]:
    """How the authors' code names the model, where it loads it in the same way."""
    spec = parse_spec(backbone)
    loader = _LOADERS.get(spec.kind or "", f"unsupported:{spec.kind}")
    return {
        "model": spec.name,
        "loader": loader,
        "pretrain_tag": spec.options.get("pretrained", ""),
    }


def _percent(one: Result) -> str:
    return f"{100 * one.metrics['top1'].mean:.2f}"


def _differences(one: Result, encoder: Encoder | None) -> list[Differs]:
    """What differs in protocol from the benchmark's figures, which are all made alike."""
    figure = _linear_figure(encoder) or next(f for f in figures() if f.source == "ep-benchmark")
    return differences(one, figure, encoder or encoders()[figure.encoder])


def _notes(ep: Result, encoder: Encoder | None) -> str:
    """What differs from the authors' training, and with what it was made."""
    named = ("training images", "runs")
    differs = [str(one) for one in _differences(ep, encoder) if one.what in named]
    version = ep.environment.get("iceprobe", "")
    return "; ".join([f"Made with iceprobe {version}".rstrip(), *differs])
