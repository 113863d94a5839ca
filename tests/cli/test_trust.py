"""Files of others: nothing that they name runs or asks another host before the caller trusts them.

Each attack leaves a mark where it ran, and each is seen to work once it is trusted.
"""

import json
import shutil
import sys
import threading
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import iceprobe as api
from iceprobe.core.checksums import SEAL, seal
from iceprobe.core.errors import IceprobeError
from iceprobe.core.trust import elsewhere
from iceprobe.datasets.registry import names_elsewhere

MARK = "import os, pathlib; pathlib.Path(os.environ['TRUST_MARK']).touch()\n"


@pytest.fixture(autouse=True)
def a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In which the caller has named no host yet, whatever other tests did in this one."""
    monkeypatch.setattr("iceprobe.core.trust._named", set())


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its store, exported with and without the weights of the backbone."""
    place = tmp_path_factory.mktemp("victim")
    backbone = api.load_backbone("bundled:mae-tiny")
    images = api.load_dataset("bundled:fashion-clutter")
    store = api.extract(backbone, images, place / "features", limit=40)
    (fitted,) = api.fit(
        store, ["ep4"], seeds=1, epochs=1, learning_rates=[0.1], min_steps=1, output=place / "run"
    )
    api.export(fitted, place / "whole")
    api.export(fitted, place / "by-name", backbone_weights=False)
    return place


@pytest.fixture
def copy(victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the victim's files, at its own place, with ``TRUST_MARK`` beside it."""
    place = shutil.copytree(victim, tmp_path / "copy")
    (store,) = (place / "features").iterdir()
    edit(place / "run" / "results.json", lambda d: set_store(d, str(store)))
    monkeypatch.setenv("TRUST_MARK", str(tmp_path / "mark"))
    return place


def edit(file: Path, change) -> None:
    """As an attacker does: the checksum of the content is made anew."""
    content = json.loads(file.read_text())
    identity = {key: content.pop(key) for key in ("identity",) if key in content}
    content.pop(SEAL, None)
    change(content)
    file.write_text(json.dumps(identity | seal(content)))


def set_store(document: dict, path: str) -> None:
    for result in document["results"]:
        result["store"]["path"] = path


def hub(place: Path) -> str:
    (place / "hub").mkdir()
    (place / "hub" / "hubconf.py").write_text(f"{MARK}def evil():\n    return None\n")
    return f"torch_hub:{place}/hub?entry=evil&trust=true&image_size=32&mean=0,0,0&std=1,1,1"


def transformers(place: Path) -> str:
    pytest.importorskip("transformers")
    folder = place / "evil-vit"
    folder.mkdir()
    maps = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": maps}))
    (folder / "evil.py").write_text(f"{MARK}raise ValueError('it has run')\n")
    return f"transformers:{folder}?trust=true&image_size=32&mean=0,0,0&std=1,1,1"


def python(place: Path) -> str:
    name = f"evil_{place.parent.name}".replace("-", "_")
    (place / "code").mkdir()
    (place / "code" / f"{name}.py").write_text(f"def build():\n    {MARK}\n")
    return f"python:{name}:build?image_size=32&mean=0,0,0&std=1,1,1"


def whole(place: Path) -> list[str]:
    return ["predict", f"{place}/whole", "--images", str(place)]


def by_name(place: Path) -> list[str]:
    return ["predict", f"{place}/by-name", "--images", str(place)]


def export(place: Path) -> list[str]:
    return ["export", f"{place}/run", "--output", f"{place}/again"]


def repair(place: Path) -> list[str]:
    (store,) = (place / "features").iterdir()
    return ["extract", "--repair", str(store)]


def heads(place: Path) -> list[str]:
    return ["analyze", f"{place}/run", "--heads"]


def background(place: Path) -> list[str]:
    return ["analyze", f"{place}/run", "--background"]


@pytest.mark.parametrize("payload", [hub, transformers, python])
@pytest.mark.parametrize("door", [whole, by_name, export, repair, heads, background])
def test_no_file_runs_code_by_itself(iceprobe, copy, tmp_path, monkeypatch, door, payload):
    spec = payload(copy)
    monkeypatch.syspath_prepend(str(copy / "code"))
    (store,) = (copy / "features").iterdir()
    for card in (copy / "whole/model.json", copy / "by-name/model.json", store / "manifest.json"):
        edit(card, lambda content: content["backbone"].update(spec=spec))
    edit(copy / "run/results.json", lambda content: content["results"][0].update(backbone=spec))
    ended = iceprobe(*door(copy))
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert spec in ended.err
    assert "--trust" in ended.err
    assert not (tmp_path / "mark").exists()
    if door is whole:
        with pytest.raises(IceprobeError, match="runs code of its own"):
            api.load_probe(copy / "whole")
        assert not (tmp_path / "mark").exists()
    ended = iceprobe(*door(copy), "--trust")
    assert ended.code == 2  # the payload is no backbone
    assert (tmp_path / "mark").exists()


def test_a_trusted_name_is_not_looked_up_in_the_current_folder(
    iceprobe, copy, tmp_path, monkeypatch
):
    """What a download brings along stands in for no module; PYTHONPATH says that it may."""
    spec = python(copy)
    edit(copy / "whole/model.json", lambda card: card["backbone"].update(spec=spec))
    for folder in (tmp_path, copy / "whole"):
        shutil.copytree(copy / "code", folder, dirs_exist_ok=True)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(copy / "whole"), *sys.path])
    ended = iceprobe(*whole(copy), "--trust")
    assert "no module named" in ended.err
    assert not (tmp_path / "mark").exists()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    iceprobe(*whole(copy), "--trust")
    assert (tmp_path / "mark").exists()


def test_what_the_caller_has_run_himself_needs_no_other_word(iceprobe, copy, tmp_path, monkeypatch):
    """As in a notebook: load_backbone("python:…"), extract, fit, export."""
    name = f"good_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import iceprobe\n\ndef build():\n    return iceprobe.load_backbone('bundled:mae-tiny').reader\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = "?image_size=32&mean=0,0,0&std=1,1,1"
    spec = f"python:{name}:build{options}"
    (store,) = (copy / "features").iterdir()
    edit(store / "manifest.json", lambda content: content["backbone"].update(spec=spec))
    edit(copy / "run/results.json", lambda content: content["results"][0].update(backbone=spec))
    assert "runs code of its own" in iceprobe(*export(copy)).err
    with pytest.raises(IceprobeError, match="prepared"):
        api.load_backbone(f"python:{name}:build")
    assert "runs code of its own" in iceprobe(*export(copy)).err  # it didn't end well


@pytest.mark.parametrize("factory", ["os:getenv", "subprocess:Popen", "json:dumps"])
def test_a_factory_is_called_only_without_arguments(factory):
    with pytest.raises(IceprobeError, match=r"called without arguments .*takes none"):
        api.load_backbone(f"python:{factory}?image_size=8&mean=0&std=1")


@pytest.fixture
def counting():
    """A server on loopback, and the requests that it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("/data/birds", False),
        ("/data/a:/b", False),
        ("birds", False),
        ("file:///data/birds", False),
        ("/data/train-{000..010}.tar", False),
        ("s3://bucket/birds", True),
        ("s3:/bucket/birds", True),
        ("HTTP://host/x", True),
        ("zip://a.tar::http://host/b.zip", True),
        ("simplecache::http://host/b", True),
        ("file://a::http://host/b", True),
        ("{s3://a,s3://b}/x.tar", True),
        ("http{:,:}//host/x.tar", True),
        ("h{t,t}tp://host/x.tar", True),
        ("s3:{/,/}/bucket/x.tar", True),
    ],
)
def test_what_is_on_another_host(place, named):
    assert elsewhere(place) is named
    assert names_elsewhere(f"folder:{place}") is named
    assert names_elsewhere(f"webdataset:/a.tar?test={place}") is named


@pytest.mark.parametrize("form", ["{}/store", "zip://s::{}/a.zip"])
def test_no_results_file_sends_requests(iceprobe, copy, counting, form):
    host, asked = counting
    edit(copy / "run/results.json", lambda content: set_store(content, form.format(host)))
    run = f"{copy}/run"
    ended = iceprobe("report", run)
    assert ended.code == 0
    page = unescape((copy / "run/report.html").read_text())
    if form == "{}/store":
        assert "wasn't asked" in ended.out
        assert "which isn't asked: pass --trust" in page
    for refused in (["analyze", run], ["analyze", run, "--figure", "a.pdf"], export(copy)):
        ended = iceprobe(*refused)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    iceprobe("compare", run, "--against", "ep4")
    iceprobe("advise", run)
    assert asked == []


def test_a_trusted_results_file_is_followed(iceprobe, copy, counting):
    host, asked = counting
    edit(copy / "run/results.json", lambda content: set_store(content, f"{host}/store"))
    assert iceprobe("report", f"{copy}/run", "--trust").code == 0
    assert any("/store/manifest.json" in path for path in asked)


@pytest.mark.parametrize("spec", ["folder:{}/birds", "webdataset:{}/a.tar?test={}/b.tar"])
def test_no_manifest_sends_requests(iceprobe, copy, counting, spec):
    host, asked = counting
    (store,) = (copy / "features").iterdir()
    there = spec.replace("{}", host)
    edit(store / "manifest.json", lambda content: content["dataset"].update(spec=there))
    edit(copy / "run/results.json", lambda content: content["results"][0].update(dataset=there))
    assert iceprobe("report", f"{copy}/run").code == 0
    assert "on another host" in (copy / "run/report.html").read_text()
    ended = iceprobe(*repair(copy))
    assert (ended.code, "on another host" in ended.err) == (2, True)
    assert asked == []
    iceprobe(*repair(copy), "--trust")
    assert asked


def test_no_manifest_fetches_a_data_set(iceprobe, copy):
    (store,) = (copy / "features").iterdir()
    edit(store / "manifest.json", lambda c: c["dataset"].update(spec="huggingface:someone/birds"))
    assert "on another host, 'huggingface:someone/birds'" in iceprobe(*repair(copy)).err


@pytest.mark.parametrize("name", ["../whole/probe.safetensors", "/etc/passwd", "a/../../b"])
def test_recorded_paths_stay_in_their_folder(iceprobe, copy, name):
    """Of a run's files, a store's shards and an exported folder's files; each is there."""

    def leads_out(content: dict) -> None:
        content["results"][0]["files"]["probes"] = [name]

    edit(copy / "run/results.json", leads_out)
    ended = iceprobe(*export(copy))
    assert "files.probes.0: Value error" in ended.err
    assert "doesn't stay inside its folder" in ended.err
    edit(copy / "whole/model.json", lambda card: card["files"].update({name: "0"}))
    assert "model.json is damaged" in iceprobe(*whole(copy)).err
    (store,) = (copy / "features").iterdir()
    edit(
        store / "manifest.json",
        lambda content: content["splits"]["train"]["shards"][0].update(file=name),
    )
    assert "manifest.json is damaged" in iceprobe("extract", "--verify", str(store)).err


def test_links_of_an_exported_folder_stay_inside(iceprobe, copy):
    """An exported folder may itself be a link; a file of it doesn't lead out."""
    (copy / "link").symlink_to(copy / "whole")
    assert api.load_probe(copy / "link").classes
    probe = copy / "whole/probe.safetensors"
    probe.rename(copy / "elsewhere.safetensors")
    probe.symlink_to(copy / "elsewhere.safetensors")
    assert "leads out of its folder: put a copy" in iceprobe(*whole(copy)).err
