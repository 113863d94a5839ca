"""Paths of this machine never leave it, whichever way a file writes them."""

import html
import json
import shlex

import pytest

from iceprobe.core.checksums import seal, unseal
from iceprobe.publishing.private import paths_in, still_in, without
from iceprobe.reporting.template import inert_json, parted
from iceprobe.results.tables import markdown_text

HOME = "/home/Ann O'Hara & co/my_secret vögel"

# How the writers of reports, cards and results write a text.
WRITERS = {
    "results.json": lambda text: json.dumps({"text": text}, ensure_ascii=False),
    "model card": markdown_text,
    "page": html.escape,
    "page's table": lambda text: str(parted(text)),
    "page's script": lambda text: str(inert_json([text])),
    "command": lambda text: shlex.join(["iceprobe", "run", text]),
    "results.json, of a command": lambda text: json.dumps(shlex.join(["iceprobe", text])),
}


def seen(text: str) -> str:
    """What a person reads in any of these forms."""
    for mark in ("<wbr>", "\\"):
        text = text.replace(mark, "")
    return html.unescape(text)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(
    "spec",
    [
        f"folder:{HOME}/birds",
        f"timm:vit_tiny?checkpoint={HOME}/birds&image_size=32",
        f"table:labels.csv?images={HOME}/birds",
        f"the 4 positions in pos_embed of {HOME}/birds lie on 2x2",
    ],
)
def test_a_path_is_its_last_name_in_every_form(write, spec):
    content = write(spec).encode()
    # Where it lies is known from another field, as in a result: a sentence doesn't say where a path ends.
    paths = paths_in([{"spec": spec, "store": f"{HOME}/store"}])
    assert still_in({"a": content}, paths) == ["a"]
    left = without(content, paths)
    assert still_in({"a": left}, paths) == []
    for name in ("home", "Ann", "Hara", "secret", "vögel", "u00f6gel"):
        assert name not in seen(left.decode())
    assert "birds" in left.decode()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("folder:/home/ann/birds", "folder:birds"),
        ("~/birds", "birds"),
        ("folder:~ann/secret/birds", "folder:birds"),
        ("folder:../../ann/birds", "folder:birds"),
        ("webdataset:file:///data/ann/{000..010}.tar", "webdataset:file://{000..010}.tar"),
        ("features:/data/ann/a.h5?test=/data/ann/b c.h5", "features:a.h5?test=b c.h5"),
        ("python:make@/home/ann/model.py", "python:make@model.py"),
        ("iceprobe run --data=folder:/home/ann/birds -o/home/ann/out", "iceprobe run --data=folder:birds -oout"),
        ("iceprobe run --data 'folder:/home/ann b/c/my birds'", "iceprobe run --data 'folder:my birds'"),
        ("it isn't in /home/ann/birds: ask", "it isn't in birds: ask"),
        # These say nothing of this machine.
        ("folder:birds/2026", "folder:birds/2026"),
        ("folder:/data", "folder:/data"),
        ("folder:../birds", "folder:../birds"),
        ("transformers:facebook/dinov2-base", "transformers:facebook/dinov2-base"),
        ("s3://bucket/ann/birds", "s3://bucket/ann/birds"),
        ("accuracy and/or loss", "accuracy and/or loss"),
    ],
)  # fmt: skip
def test_what_is_a_path_and_what_is_none(text, left):
    assert without(text.encode(), paths_in([text])).decode() == left


def test_the_home_and_the_folder_of_who_publishes_are_known_without_being_named(monkeypatch):
    monkeypatch.setenv("HOME", "/users/ann")
    content = b"see /users/ann/notes and /users/ann."
    assert without(content, paths_in([])) == b"see notes and ~."


def test_classes_that_look_like_paths_stay_and_the_seal_holds(tmp_path):
    document = seal({"class_names": ["/m/01g317", "/m/0abc"], "store": f"{HOME}/x_y"})
    paths = paths_in([document])
    left = json.loads(without(json.dumps(document).encode(), paths))
    assert unseal(left, tmp_path, "") == {"class_names": ["/m/01g317", "/m/0abc"], "store": "x_y"}


def test_an_address_has_no_password_where_it_is_published():
    document = {
        "store": "s3://key:se/cret@bucket",
        "data": "table:https://ann:pw@host/a.csv?target=x",
    }
    left = without(json.dumps(document).encode(), ())
    assert json.loads(left)["data"] == "table:https://host/a.csv?target=x"
    assert b"pw@" not in left
    assert without(b"mail to ann@host", ()) == b"mail to ann@host"
