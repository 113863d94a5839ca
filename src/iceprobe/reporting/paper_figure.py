"""Attention maps, or evidence, of several probes over several images in one figure, ready for a paper.

Rows are images, columns the image and then probes, or the predictors of a single one. Text and
layout are vectors and fonts are embedded in a PDF; an image and the map over it are two pictures,
one above the other, so that the map's transparency can be changed in a drawing program.
"""

from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from iceprobe.analysis.evidence import has_evidence
from iceprobe.analysis.layouts import layout_of
from iceprobe.core.arguments import checked
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import unknown
from iceprobe.machine.files import write_atomically
from iceprobe.reporting.attention import Album, columns_of
from iceprobe.reporting.finding import display_name
from iceprobe.reporting.pictures import colour, evidence_colour, evidence_opacity, picture_uri
from iceprobe.results.fitted import FittedResult
from iceprobe.results.stores import store_of
from iceprobe.store.examples import example_noun

WIDTH = 504  # points: 7 inches, both columns of a paper
COLUMN = 244  # points: one column of it
LARGEST = 88  # points of a picture
MOST_COLUMNS = 12  # pictures a row that can still be seen
PIXELS = 320  # of a picture: 300 dots an inch where it is largest
FORMATS = (".pdf", ".svg", ".png")
Pictures = tuple[str, list[Image.Image]]  # a column: its title and a map over each image
_GAP, _LABELS, _LINE, _LETTER = 3, 58, 8.5, 3.6
_FONT = "'Liberation Sans', Arial, Helvetica, sans-serif"

# Coordinates are points.
_SVG = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" \
width="{{ width }}{{ unit }}" height="{{ height }}{{ unit }}" viewBox="0 0 {{ width }} {{ height }}" \
font-family="{{ font }}" font-size="7.5" fill="#111111">
<rect width="100%" height="100%" fill="#ffffff"/>
{% for title in titles %}{% for line in title.lines %}\
<text x="{{ title.x }}" y="{{ title.y + step * loop.index0 }}" text-anchor="middle">{{ line }}</text>
{% endfor %}{% endfor %}\
{% for label in labels %}{% for line in label.lines %}\
<text x="{{ label.x }}" y="{{ label.y + step * loop.index0 }}" text-anchor="end">{{ line }}</text>
{% endfor %}{% endfor %}\
{% for picture in pictures %}\
<image x="{{ picture.x }}" y="{{ picture.y }}" width="{{ side }}" height="{{ side }}" \
preserveAspectRatio="xMidYMid {{ fit }}" xlink:href="{{ picture.uri }}"/>
{% endfor %}</svg>
"""
)


@checked
def figure(
    results: Sequence[FittedResult],
    path: str | Path,
    *,
    images: int = 6,
    column: bool = False,
    evidence: str | None = None,
    trust: bool = False,
) -> Path:
    """Write the maps of probes over test images as one figure.

    Of several probes a column is the mean over the predictors of one; of a single probe a column
    is a predictor, or with more than eight a group of predictors that look alike. With ``evidence`` each
    probe has its mean map and the evidence of the patches, red for the output and blue against it; the
    pictures of a row have one scale.

    Args:
        results: of one run: probes with attention, or with evidence, on one store, with its images at hand.
        path: ends in ``.pdf``, ``.svg`` or ``.png``; replaced atomically if it is there.
        images: rows: test images, spread over the classes, the tags or the order of the first number, whatever
            the probes made of them.
        column: as wide as one column of a paper, 3.4 inches, in place of two, 7 inches.
        evidence: the name of a class, tag or number; of classes also ``"true"``, that of each image, and
            ``"predicted"``, what each probe reads.
        trust: whether other hosts may be asked for a store and images that the results' files name.

    Returns:
        The path written.

    Raises:
        IceprobeError: for another format, no images or no probe with attention or the evidence, several
            stores, or if the store, its images or the fitted probes can't be found.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise IceprobeError(f"figure {str(path)!r}: it ends in {', '.join(FORMATS)}")
    if images < 1:
        raise IceprobeError(f"images={images}: a figure needs at least 1")
    probes = ", ".join(result.label for result in results) or "nothing"
    without = IceprobeError(
        f"no probe with attention among {probes}: run one, such as --probe ep12"
    )
    attentive = [one for one in results if one.method == "trained" and one.adaptation is None]
    if not attentive:
        raise without
    if len({(one.store.identity, one.split) for one in attentive}) > 1:
        raise IceprobeError("a figure is of one backbone on one data set: name the run of one")
    store = store_of(attentive[0], trust=trust)
    if layout_of(store) not in ("grid", None):
        raise IceprobeError(
            f"a figure is of images, and tokens here are of {example_noun(store.manifest)}s: take the pictures of iceprobe "
            "report"
        )
    album = Album.spread(store, attentive[0].split, images)
    if evidence is not None:
        columns = evidence_columns(attentive, album, evidence)
        return _written(path, album, columns, COLUMN if column else WIDTH)
    # Linear probes have no maps.
    found = [(one, maps) for one in attentive if (maps := album.maps(album.probe(one))) is not None]
    if not found:
        raise without
    if len(found) == 1:
        weights, titles = columns_of(found[0][1])
    else:
        weights = torch.stack([maps.mean(1) for _, maps in found], 1)
        titles = [display_name(one.label) for one, _ in found]
    grids = list(zip(album.gridded(weights), map(_pixels, album.images), strict=True))
    columns = [
        (title, [overlay(one[k], size) for one, size in grids]) for k, title in enumerate(titles)
    ]
    return _written(path, album, columns, COLUMN if column else WIDTH)


def evidence_columns(results: Sequence[FittedResult], album: Album, asked: str) -> list[Pictures]:
    """Of each probe its mean map, where it has attention, and the evidence for what is asked.

    Raises:
        IceprobeError: if the data have no such output, or no probe's logits are sums over patches.
    """
    names, classes = list(album.store.classes), album.labels.ndim == 1
    if asked not in names and not (classes and asked in ("true", "predicted")):
        known = unknown(f"output of {album.store.manifest.dataset.name}", asked, names)
        raise IceprobeError(known + (", or true or predicted" if classes else ""))
    found: list[tuple[str, list[Tensor], list[NDArray]]] = []
    why = ""
    for result in results:
        if (probe := album.probe(result)) is None:
            continue
        if not has_evidence(probe):
            why = f"; {result.label}: {probe.pooling.entangled}"
            continue
        if asked in names:
            outputs = np.full(len(album.rows), names.index(asked))
        else:
            outputs = album.labels if asked == "true" else album.logits(probe).argmax(1).numpy()
        maps = album.maps(probe)
        means = [] if maps is None else [one[0] for one in album.gridded(maps.mean(1)[:, None])]
        evident = [one[0] for one in album.evidence(probe, outputs[:, None])]
        found.append((result.label, means, evident))
    if not found:
        raise IceprobeError(f"no probe whose evidence can be drawn{why}: run one, such as ep12")
    full = np.max([[np.abs(one).max() for one in e] for _, _, e in found], 0)
    sizes, columns = [_pixels(image) for image in album.images], list[Pictures]()
    for label, means, evidence in found:
        name = display_name(label)
        if means:
            columns.append((name, [overlay(*one) for one in zip(means, sizes, strict=True)]))
        pictures = [evidence_overlay(*one) for one in zip(evidence, full, sizes, strict=True)]
        columns.append((f"{name}: {'evidence' if asked in names else f'for {asked}'}", pictures))
    return columns


def _written(path: Path, album: Album, columns: Sequence[Pictures], width: float) -> Path:
    if len(columns) > MOST_COLUMNS:
        raise IceprobeError(
            f"{len(columns)} maps side by side can't be seen: choose at most {MOST_COLUMNS} in all"
        )
    unit = "pt" if path.suffix == ".svg" else ""  # which the converter takes for points
    write_atomically(path, _converted(_drawn(album, columns, width, unit), path.suffix))
    return path


def _drawn(album: Album, maps: Sequence[Pictures], width: float, unit: str) -> str:
    """The figure as SVG: columns of maps beside their images."""
    titles, columns = [title for title, _ in maps], len(maps) + 1
    side = min(LARGEST, (width - _LABELS - _GAP * columns) / columns)
    heads = [wrapped(title, side / _LETTER, 2) for title in ["image", *titles]]
    head = 3 + _LINE * max(map(len, heads))
    across = [_LABELS + _GAP + c * (side + _GAP) for c in range(columns)]
    down = [head + r * (side + _GAP) for r in range(len(album.images))]
    above = [
        {"x": x + side / 2, "y": head - 3.5 - _LINE * (len(lines) - 1), "lines": lines}
        for x, lines in zip(across, heads, strict=True)
    ]
    labels = []
    for y, title in zip(down, album.titles, strict=True):
        lines = wrapped(title, _LABELS / _LETTER, max(1, int(side / _LINE)))
        middle = y + side / 2 + 2.6 - _LINE * (len(lines) - 1) / 2
        labels.append({"x": _LABELS, "y": middle, "lines": lines})
    pictures = []
    for row, (y, image) in enumerate(zip(down, album.images, strict=True)):
        grey = _image_uri(_dimmed(image))
        pictures.append({"x": across[0], "y": y, "uri": _image_uri(image)})
        for x, (_, of_column) in zip(across[1:], maps, strict=True):
            over = picture_uri(of_column[row], "PNG")
            pictures += [{"x": x, "y": y, "uri": uri} for uri in (grey, over)]
    return _SVG.render(
        width=round(across[-1] + side, 2),
        height=round(down[-1] + side, 2),
        unit=unit,
        font=_FONT,
        step=_LINE,
        side=round(side, 3),
        # Images of their own shape stand whole in their squares.
        fit="slice" if all(one.width == one.height for one in album.images) else "meet",
        titles=above,
        labels=labels,
        pictures=pictures,
    )


def _pixels(image: Image.Image) -> tuple[int, int]:
    """Height and width of the map over an image."""
    longest = max(image.size)
    return max(1, PIXELS * image.height // longest), max(1, PIXELS * image.width // longest)


def overlay(weights: Tensor, size: tuple[int, int] = (PIXELS, PIXELS)) -> Image.Image:
    """A map ``(H, W)`` that sums to 1 as a transparent picture, on the scale of `pictures.map_picture`."""
    uniform = 1 / weights.numel()
    span = max(float(weights.max()), 4 * uniform) - uniform
    heat = F.interpolate(((weights - uniform) / span)[None, None], size, mode="bicubic")[
        0, 0
    ].clamp(0, 1)
    values: NDArray = heat.numpy().astype(np.float64)
    opacity = np.clip(1.25 * np.sqrt(values), 0, 0.82)[..., None]
    pixels = np.concatenate([colour(values), 255 * opacity], -1)
    return Image.fromarray(pixels.round().astype(np.uint8), "RGBA")


def evidence_overlay(
    evidence: NDArray, full: float, size: tuple[int, int] = (PIXELS, PIXELS)
) -> Image.Image:
    """Evidence ``(H, W)`` as a transparent picture, on the scale of `pictures.evidence_picture`."""
    cells = torch.from_numpy(np.asarray(evidence / full if full else evidence, np.float32))
    values = F.interpolate(cells[None, None], size, mode="bicubic")[0, 0].numpy()
    opacity = 255 * evidence_opacity(values)[..., None]
    pixels = np.concatenate([evidence_colour(values), opacity], -1)
    return Image.fromarray(pixels.round().astype(np.uint8), "RGBA")


def wrapped(text: str, width: float, lines: int) -> list[str]:
    """``text`` in at most ``lines`` of ``width`` letters; what is too long gets an ellipsis.

    Broken after a colon, which is left out, and at spaces.
    """
    letters = max(3, int(width))
    found: list[str] = []
    # XML has no other letters.
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    for part in printable.split(": "):
        line = ""
        for word in part.split():
            if line and len(line) + 1 + len(word) > letters:
                found.append(line)
                line = ""
            line = f"{line} {word}".lstrip()
        found.append(line)
    if len(found) > lines:
        found[lines - 1 :] = [" ".join(found[lines - 1 :])]
    return [one if len(one) <= letters else f"{one[: letters - 1]}…" for one in found]


def _dimmed(image: Image.Image) -> Image.Image:
    """The greyed image that maps are laid over."""
    grey = np.asarray(image.convert("L"), np.float64)
    return Image.fromarray((0.62 * grey + 12).astype(np.uint8))


def _image_uri(image: Image.Image) -> str:
    size = (PIXELS, round(PIXELS * image.height / image.width))
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return picture_uri(picture, quality=92)


def _converted(svg: str, suffix: str) -> bytes:
    if suffix == ".svg":
        return svg.encode()
    import vl_convert

    return vl_convert.svg_to_pdf(svg) if suffix == ".pdf" else vl_convert.svg_to_png(svg, ppi=300)
