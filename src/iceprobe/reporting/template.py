"""The page's template: its environment, its scripts and styles, and the policy they run under."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from iceprobe.core.text import counted, duration
from iceprobe.reporting.finding import display_name
from iceprobe.results.caveats import covered, few_rows, kept, lost_note, tested
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
        "first_capital": capital,
        "kept": kept, "covered": covered, "lost_note": lost_note, "tested": tested, "few_rows": few_rows,
    }  # fmt: skip
    made.tests["match_start"] = str.startswith
    made.filters.update(
        display=display_name, figure=figure, gap=gap, percent=percent, span=span, short=short,
        duration=duration, points=signed_points, tenths=tenths, parted=parted, counted=counted,
    )  # fmt: skip
    return made


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
