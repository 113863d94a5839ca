"""The page's template: its environment, its scripts and styles, and the policy they run under."""

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import count

import jinja2
from markupsafe import Markup

from iceprobe.core.text import counted, duration
from iceprobe.reporting.dark import DARK
from iceprobe.reporting.finding import display_name
from iceprobe.results.caveats import covered, few_rows, kept, lost_note, tested
from iceprobe.results.examples import example_of, examples_of
from iceprobe.results.primary import capital, full_title_of, heading_of_all, is_usual, unit_of
from iceprobe.results.tables import (
    TRAIN_LONGER,
    figure,
    gap,
    heading_of,
    percent,
    short,
    sign_of,
    signed_points,
    span,
    tenths,
)
from iceprobe.results.varying import value_of


@cache
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {
        "value_of": value_of, "remedy": TRAIN_LONGER, "heading_of_all": heading_of_all,
        "full_title_of": full_title_of, "is_usual": is_usual, "heading_of": heading_of,
        "sign_of": sign_of, "unit_of": unit_of,
        "first_capital": capital, "example_of": example_of, "examples_of": examples_of,
        "kept": kept, "covered": covered, "lost_note": lost_note, "tested": tested, "few_rows": few_rows,
    }  # fmt: skip
    made.tests["match_start"] = str.startswith
    made.filters.update(
        display=display_name, figure=figure, gap=gap, percent=percent, span=span, short=short,
        duration=duration, points=signed_points, tenths=tenths, parted=parted, counted=counted,
    )  # fmt: skip
    return made


class Anchors:
    """Names of the places of one page that can be linked to, from what they are."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, *words: str) -> str:
        """``"differences-against-ep12"``; a number behind it where a page has the same words twice."""
        plain = (unicodedata.normalize("NFKC", word).lower() for word in words)
        name = "-".join(filter(None, (re.sub(r"\W+", "-", word).strip("-") for word in plain)))
        chosen = next(
            one for k in count(1) if (one := f"{name}-{k}" if k > 1 else name) not in self._given
        )
        self._given.add(chosen)
        return chosen


def policy(scripts: Sequence[str]) -> str:
    """A content security policy under which only our scripts run and nothing is fetched.

    ``unsafe-eval`` because Vega compiles its expressions; they come from our charts, in which
    names from data are values and never expressions.
    """
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def scripts_of(*, charts: bool) -> list[str]:
    """What a page runs: the theme, which comes first, then the charts' engine, then the rest."""
    names = ("page.js", "copying.js", *(["charts.js"] if charts else []))
    return [
        asset("theme.js"),
        *([engine()] if charts else []),
        "\n".join(map(asset, names)),
    ]


def style() -> Markup:
    """The page's styles, with what its colours are in the dark."""
    rules = [
        f'svg [fill="{light}" i] {{ fill: light-dark({light}, {dark}); }}\n'
        f'svg [stroke="{light}" i] {{ stroke: light-dark({light}, {dark}); }}\n'
        f'.dot[style="background:{light}"] {{ background: light-dark({light}, {dark}) !important; }}\n'
        for light, dark in DARK.items()
    ]
    return Markup(asset("page.css") + "".join(rules))


@cache
def engine() -> str:
    """Vega, Vega-Lite and vega-embed in one script that sets ``window.vegaEmbed``."""
    import vl_convert

    return vl_convert.javascript_bundle().replace("</script", "<\\/script")  # type: ignore[call-arg]  # its stub forgets a default


def parted(spec: str) -> Markup:
    """A spec that may be wrapped after its separators, and is copied as a whole."""
    return Markup("<wbr>").join(re.split(r"(?<=[:/?&._-])(?=[^:/?&._-])", spec))


def asset(name: str) -> str:
    return (files("iceprobe.reporting") / "assets" / name).read_text(encoding="utf-8")


def inert_json(value: object) -> Markup:
    """JSON for a ``<script type="application/json">``: no character of it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
