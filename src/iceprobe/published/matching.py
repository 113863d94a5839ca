"""Which published encoder and data set a result is of."""

import re
from collections.abc import Sequence

from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import Spec, parse_spec, unknown
from iceprobe.published.rows import DATA, Encoder, Figure, encoders, figures
from iceprobe.results.schema import Result

IMAGENET = "imagenet1k"
_WEIGHTS = ("entry", "pretrained")  # options that say which weights a spec loads
_OWN = ("checkpoint", "checkpoint_key", "strip")  # options that load others
ABLATION = "ablation"  # note of a figure that isn't a main result
_SYNSET = re.compile(r"n\d{8}")


def encoder_of(backbone: str) -> Encoder | None:
    """The published encoder whose released weights this spec loads, if there is one.

    Weights from a file of one's own (``checkpoint=``) and random ones are none, whatever the architecture's name.
    """
    spec = parse_spec(backbone)
    if spec.options.get("pretrained") == "false" or any(key in spec.options for key in _OWN):
        return None
    for encoder in encoders().values():
        if any(_loads_the_same(spec, one) for one in encoder.specs):
            return encoder
    return None


def _loads_the_same(spec: Spec, known: Spec) -> bool:
    names = [one.name.removesuffix(":main").lower() for one in (spec, known)]
    weights = [[one.options.get(key) for key in _WEIGHTS] for one in (spec, known)]
    return spec.kind == known.kind and names[0] == names[1] and weights[0] == weights[1]


def data_of(result: Result) -> tuple[str, str]:
    """Name of a result's data set as figures name it, and what was assumed to tell it; both may be empty.

    A set of the catalogue is known by its name; 1,000 classes that are WordNet ids are taken for ImageNet-1k's.
    """
    spec = parse_spec(result.dataset)
    if spec.kind is None and spec.name in DATA:
        return spec.name, ""
    names = result.class_names
    if len(names) == 1000 and all(_SYNSET.fullmatch(name) for name in names):
        return (
            IMAGENET,
            f"{result.dataset} is taken for ImageNet-1k: its 1,000 classes are WordNet ids",
        )
    return "", ""


def named_encoder(name: str) -> Encoder:
    """The encoder of this name, in any case.

    Raises:
        IceprobeError: if none has it; with the nearest names.
    """
    known = {one.lower(): one for one in encoders()}
    if name.lower() not in known:
        raise IceprobeError(unknown("published encoder", name, encoders()))
    return encoders()[known[name.lower()]]


def check_data(name: str, results: Sequence[Result]) -> None:
    """Refuse a data set that no figure is of, or whose classes aren't as many as those of the results.

    Raises:
        IceprobeError: with the nearest names, or both numbers.
    """
    if name not in DATA:
        raise IceprobeError(unknown("data set with published figures", name, DATA))
    for one in results:
        if one.classes != DATA[name].classes:
            raise IceprobeError(
                f"{one.dataset} has {one.classes:,} outputs and {name} has {DATA[name].classes:,} classes: name the "
                f"data set that it is, one of {', '.join(DATA)}"
            )


def figures_for(result: Result, encoder: Encoder, data: str) -> list[Figure]:
    """The figures of an encoder on a data set that are of the same probe, from each source those that come nearest.

    Of a source that has the very probe these, or else those of EP with another number of queries; where some read
    what the result reads, or don't say what they read, not the others. Results that were read on another set, and
    of adapted backbones, have none.
    """
    if (
        result.adaptation is not None
        or result.test_of is not None
        or result.task != "classification"
    ):
        return []
    here = [one for one in figures() if (one.encoder, one.data) == (encoder.name, data)]
    found: list[Figure] = []
    for source in dict.fromkeys(one.source for one in here):
        same = _of_probe(result, [one for one in here if one.source == source])
        alike = [one for one in same if one.reads in ("", reads(result, one))]
        found += alike or same
    return found


def _of_probe(result: Result, known: Sequence[Figure]) -> list[Figure]:
    """Those of one source that are of the result's probe, whatever it reads."""
    ours = _without_input(result.probe)
    # "ep" stands for the best of several numbers of queries, "aim" for one that isn't stated.
    numbered = re.fullmatch(r"(\D+)\d*", "" if ours.options else ours.name)
    general = numbered.group(1) if numbered else ""
    same = [one for one in known if _without_input(one.probe) == ours or one.probe == general]
    if same or general != "ep":
        return same
    return [one for one in known if re.fullmatch(r"ep\d+", one.probe) and one.note != ABLATION]


def _without_input(probe: str) -> Spec:
    spec = parse_spec(probe)
    kept = {key: value for key, value in spec.options.items() if key != "input"}
    return Spec(spec.kind, spec.name, kept)


def reads(result: Result, figure: Figure) -> str:
    """What the probe of a result reads, as the figure beside it would say it.

    A linear probe or k-NN without ``input=`` follows the rule of the published rows: the class token, or the mean of
    the patches where there is none or where it comes from a learned pooler.
    """
    given = parse_spec(result.probe).options.get("input")
    if given is not None:
        return given
    if result.method == "knn" or result.probe.partition("?")[0] in ("linear", "logreg"):
        return "mean" if figure.reads == "mean" else "class"
    return "patches"
