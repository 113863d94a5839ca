"""What comes from outside, and is wrong, ends in a line: at every entrance, whatever it is.

The property of all of them: a command ends with 0, or with 2 and at most three lines; a function
returns or raises an IceprobeError of a length that can be read. Nothing here extracts or fits: the work
itself is put out of reach.
"""

import contextlib
import importlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import iceprobe
from iceprobe.cli import main
from iceprobe.cli.app import app
from iceprobe.core.checksums import seal
from iceprobe.core.documents import parse_json
from iceprobe.core.errors import IceprobeError
from iceprobe.core.specs import parse_spec
from iceprobe.core.text import shown
from iceprobe.settings import AdaptRun, Planning, Run, SegmentRun, StoreRun
from tests.cli.conftest import BACKBONE, write_images

MOST = 2600  # characters of an error


def examples(number: int) -> Callable[..., Any]:
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def _reached(*_: Any, **__: Any) -> Any:
    raise IceprobeError("the work begins")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with its store and an exported probe; from then on no work is done any more."""
    base = tmp_path_factory.mktemp("entrances")
    images = write_images(base / "images", {"train": 4, "test": 2})
    run = ["run", "--backbone", BACKBONE, "--data", f"folder:{images}", "--probe", "ep2?out_dim=6"]
    run += ["--seeds", "1", "--epochs", "1", "--features", str(base / "features")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        assert ended([*run, "--output", str(base / "run")])[0] == 0
        assert ended(["export", str(base / "run"), "--output", str(base / "model")])[0] == 0
        next((base / "features").iterdir()).rename(base / "store")
        for place in (
            "iceprobe.fitting.api.repetition",
            "iceprobe.store.writer.fill",
            "iceprobe.cli.sources.print_estimate",
            "iceprobe.cli.plan.estimate",
            "iceprobe.adaptation.api.check_device",
            "iceprobe.reporting.page.write_report",
            "iceprobe.exporting.prediction.extracted_batches",
            "iceprobe.analysis.running.choose_device",
        ):
            module, _, name = place.rpartition(".")  # `iceprobe.report` is the function
            patch.setattr(importlib.import_module(module), name, _reached)
        yield base


def ended(arguments: list[str]) -> tuple[int, str]:
    """Exit status and what stands on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            return int(stop.code or 0), err.getvalue()
    raise AssertionError("a command exits")


def check(arguments: list[str]) -> None:
    code, err = ended(arguments)
    assert code in (0, 2), (arguments, code, err[-300:])
    if code == 2:
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) <= 3, (arguments, err[:1000])
        assert len(err) <= MOST, (arguments, len(err))
        assert "iceprobe: error: " in err


# What wrong values are made of: words that a reader of YAML, of numbers or of paths trips over.
WORDS = [
    "0", "-1", "1e400", "nan", "-inf", "9" * 5000, "10" * 20, str(2**63), "0x_", "0b_",
    "2001-99-99", "2001-01-01 25:61:61", "null", "", "[]", "{}", "{a: 1}", "[1, [2]]", "a" * 3000,
    "\x00", '"\\0"', '"\\ud800"', "!!int x", "!!timestamp x", "!!binary ===", "!!python/none x",
    "&a [*a]", "*x", "- - -", ": :", "1.5", "1e-3,nan", "0,0", ",", "99999999999999999999TB",
    "cpu", "mps", "xpu", "meta", "cuda:99", "cuda:99999999999999999999", "ep0", "ep999999999",
    "ep8?out_dim=1000000000", "ep8?out_dim=99999999999999999999", "ep8?dropout=nan", "?", "?a=b",
    "a:b?c=d&c=e", "folder:/dev/null", "folder:\x00", "timm:x?image_size=0", "python::b",
    "python:..:b", "python:./x.py:b", "http://[", "s3://", "/dev/null", "..", "~nobody/x", "paper",
]  # fmt: skip
ANY = st.sampled_from(WORDS) | st.text(max_size=12)
CONFIGS = {
    "run": Run,
    "fit": StoreRun,
    "plan": Planning,
    "adapt": AdaptRun,
    "segment": SegmentRun,
}


def good(command: str, base: Path) -> dict[str, Any]:
    """A configuration that reaches the work."""
    if command == "fit":
        return {"store": str(base / "store"), "probe": ["linear"], "seeds": 1, "epochs": 1}
    return {"backbone": BACKBONE, "data": f"folder:{base}/images", "probe": ["linear"], "seeds": 1}


@examples(60)
@given(st.data())
def test_yaml(base: Path, data: st.DataObject) -> None:
    command = data.draw(st.sampled_from(sorted(CONFIGS)))
    values = good(command, base)
    key = data.draw(st.sampled_from(sorted(CONFIGS[command].model_fields)))
    values.pop(key, None)
    text = f"{yaml.safe_dump(values)}{key}: {data.draw(ANY)}\n"
    (base / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    check([command, "c.yaml"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: " + b"[" * 1500 + b"]" * 1500, "is not YAML, it nests too deeply"),
        (b"x" * 30_000_000, "is not YAML, it has more than 1,048,576 characters"),
        (b"seeds: 2001-99-99", "is not YAML at line 1, column 8, '2001-99-99' is no timestamp"),
        (b"seeds: 0x_", "is not YAML at line 1, column 8, '0x_' is no int"),
        (
            b"probe: [knn, ep12?out_dim=48]",
            'needs quotes within [ ] and { } (["ep12?value=identity"])',
        ),
        (b"\xff\xfe\x00", "is not UTF-8 text (byte 0): name a YAML file"),
        (b"? [a, b]\n: 1", "is not YAML at line 1, column 3"),
        (b"backbone: " + b"a" * 100_000, "names no source"),
        (b'output: "a\\0b"', "output='a\\x00b' has a character in it that no file name has"),
        (b'data: "\\ud800"', "has a character in it that no file name has"),
        (b"batch_size: 1" + b"0" * 30, "--batch-size 1000"),
        (b"workers: 99999999999", "Input should be less than or equal to 1000000000"),
        (b"memory: 99999999999999999999GB", "write a number that 64 bits hold"),
    ],
)
def test_yaml_says(base: Path, content: bytes, said: str) -> None:
    rest = yaml.safe_dump({k: v for k, v in good("run", base).items() if k.encode() not in content})
    (base / "c.yaml").write_bytes(content + b"\n" + rest.encode())
    code, err = ended(["run", "c.yaml"])
    assert code == 2
    assert said.removeprefix("Input ") in err, err[:500]
    assert len(err) <= MOST
    assert len(err.strip().splitlines()) == 1


@examples(40)
@given(st.data())
def test_overrides(base: Path, data: st.DataObject) -> None:
    command = data.draw(st.sampled_from(sorted(CONFIGS)))
    (base / "c.yaml").write_text(yaml.safe_dump(good(command, base)))
    key = data.draw(st.sampled_from([*CONFIGS[command].model_fields, "", "=", "x"]))
    check([command, "c.yaml", f"{key}={data.draw(ANY)}"])


def _options() -> list[tuple[str, str, bool]]:
    """Each command's options: command, flag, whether it takes a value."""
    root = typer.main.get_command(app)
    return [
        (name, option.opts[0], not option.is_flag)
        for name, command in sorted(root.commands.items())  # type: ignore[attr-defined]
        for option in command.params
        if option.param_type_name == "option" and option.name not in ("debug", "help")
        if name != "demo"
    ]


@examples(60)
@given(st.data())
def test_options(base: Path, data: st.DataObject) -> None:
    command, flag, takes = data.draw(st.sampled_from(_options()))
    first = {
        "fit": [base / "store", "--probe", "linear"],
        "knn": [base / "store"],
        "predict": [base / "model", "--images", base / "images"],
        "ls": ["runs", "--runs", base],
    }
    images = ["--backbone", BACKBONE, "--data", f"folder:{base}/images"]
    found = command in (*CONFIGS, "extract") and command != "fit"
    words = images if found else first.get(command, [base / "run"])
    # What the system hands over: bytes, and none of them 0.
    value = data.draw(ANY).replace("\x00", "").encode("utf-8", "replace").decode()
    check([command, *map(str, words), flag, *([value] if takes else [])])


@examples(120)
@given(st.data())
def test_specs(data: st.DataObject) -> None:
    head = data.draw(
        st.sampled_from(["bundled:mae-tiny", "timm:vit_tiny_patch16_224", "ep8"]) | ANY
    )
    keys = [
        "image_size",
        "mean",
        "std",
        "layer",
        "crop_pct",
        "out_dim",
        "dropout",
        "pretrained",
        "x",
    ]
    text = f"{head}?{data.draw(st.sampled_from(keys))}={data.draw(ANY)}"
    if head.startswith("timm:"):
        text += "&pretrained=false" if "pretrained" not in text else ""
    for load in (iceprobe.load_dataset, lambda spec: iceprobe.probes.build_pooling(spec, dim=12)):
        refused(lambda load=load: load(text))
    if head.startswith("bundled:"):
        refused(lambda: iceprobe.load_backbone(text))


def refused(call: Callable[[], Any]) -> str:
    """What it says; empty where it works."""
    said = ""
    try:
        call()
    except IceprobeError as error:
        said = str(error)
    assert len(said) <= MOST
    return said


VALUES = st.sampled_from(
    [None, 0, -1, 10**30, 10**400, 1e308, "", "a" * 3000, "\x00", "\ud800", "../x", [], {}, [[]],
     True, 1.5, float("nan"), float("inf"), {"a": 1}, [1] * 10, "a\nb"]
)  # fmt: skip


def damage(draw: Callable[[Any], Any], document: Any) -> None:
    """Put something else in one place of a document, or take it out."""
    place, key = document, None
    while isinstance(place, dict | list) and place:
        holder, key = (
            place,
            draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))),
        )
        place = holder[key]
        if draw(st.integers(0, 3)) == 0:
            break
    if draw(st.integers(0, 6)) == 0:
        del holder[key]
    else:
        holder[key] = draw(VALUES)


@examples(50)
@given(st.data())
def test_documents(base: Path, data: st.DataObject) -> None:
    """Results, manifests and cards that somebody else has written, with or without a good seal."""
    kind, name = data.draw(
        st.sampled_from(
            [("run", "results.json"), ("store", "manifest.json"), ("model", "model.json")]
        )
    )
    place = base / "theirs"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base / kind, place)
    document = json.loads((place / name).read_bytes())
    damage(data.draw, document)
    document.pop("sha256", None)
    if data.draw(st.booleans()):
        identity = document.pop("identity", None)
        document = seal(document) | ({"identity": identity} if identity else {})
    (place / name).write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))
    commands = {
        "run": [
            ["advise"],
            ["compare"],
            ["report", "--output", "r.md"],
            ["export", "--output", "m"],
        ],
        "store": [["fit", "--probe", "linear"], ["knn"]],
        "model": [["predict", "--images", f"{base}/images", "--trust"]],
    }
    command, *rest = data.draw(st.sampled_from(commands[kind]))
    check([command, str(place), *rest])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 200_000, "it nests too deeply"),
        (b"9" * 30, "it has a whole number of 30 digits in it"),
        (b"9" * 100_000, "it has a whole number of 100000 digits in it"),
        (b'{"a": 1e999}', "it has the number 1e999 in it"),
        (b"[NaN]", "it has NaN in it"),
        (b"\xff\xfe\x00", "codec can't decode"),
    ],
)
def test_json_says(base: Path, content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(content)
    theirs = base / "json"
    theirs.mkdir(exist_ok=True)
    for name, command in (
        ("results.json", ["advise", "json"]),
        ("manifest.json", ["knn", "json"]),
        ("model.json", ["predict", "json", "--images", "images"]),
    ):
        (theirs / name).write_bytes(content)
        check(command)
        assert ended(command)[0] == 2


def test_json_keeps_numbers() -> None:
    assert parse_json(b'{"a": [9223372036854775807, -9223372036854775808, -0.5, 1e-300]}') == {
        "a": [2**63 - 1, -(2**63), -0.5, 1e-300]
    }
    assert parse_json(b"[1e999]", ours=False) == [float("inf")]


PYTHON = st.sampled_from(
    [None, 0, -1, 10**30, float("nan"), -1.5, 0.5, "", "a", "\x00", [], [1], ["a"], {}, object(),
     True, "meta", "mps", "xpu", [float("nan")], [10**400], [None], b"x", Path("x")]
)  # fmt: skip


@examples(100)
@given(st.data())
def test_python_arguments(base: Path, data: st.DataObject) -> None:
    store = iceprobe.Store.open(base / "store")
    keys = [
        "budget",
        "protocol",
        "seeds",
        "replicates",
        "shots",
        "fraction",
        "epochs",
        "batch_size",
    ]
    keys += ["learning_rates", "weight_decays", "min_steps", "halving", "split", "memory"]
    keys += ["shuffle", "device", "amp", "run_seed"]
    key, value = data.draw(st.sampled_from(keys)), data.draw(PYTHON)
    refused(lambda: iceprobe.fit(store, ["linear"], output=base / "none", **{key: value}))
    refused(lambda: iceprobe.report(value, base / "none.html"))
    refused(lambda: iceprobe.load_backbone(value))
    refused(lambda: iceprobe.fit(value, ["linear"], output=base / "none"))
    refused(lambda: iceprobe.fit(store, value, output=base / "none"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"epochs": "many"}, "fit(epochs='many'): give a whole number or None"),
        ({"epochs": 2.5}, "fit(epochs=2.5): give a whole number or None"),
        ({"learning_rates": 0.1}, "fit(learning_rates=0.1): give a list of numbers or None"),
        ({"learning_rates": [float("nan")]}, "fit(learning_rates=[nan]): give a list of numbers"),
        ({"seeds": 10**30}, "give a whole number"),
        ({"run_seed": -1}, "fit(run_seed=-1): give a number from 0 up"),
        ({"device": "meta"}, "device 'meta' can't be used here: take cpu"),
        ({"device": "xpu"}, "device 'xpu' can't be used here: take cpu"),
        ({"device": "cuda:99999999999999999999"}, "unknown device"),
        ({"output": "a\0b"}, "has a character in it that no file name has"),
    ],
)
def test_python_says(base: Path, arguments: dict[str, Any], said: str) -> None:
    store = iceprobe.Store.open(base / "store")
    assert said in refused(lambda: iceprobe.fit(store, ["linear"], **arguments))


def test_whole_numbers_may_be_floats(base: Path) -> None:
    store = iceprobe.Store.open(base / "store")
    call = refused(
        lambda: iceprobe.fit(store, ["linear"], output=base / "o", budget=1e6, seeds=1.0)
    )
    assert call == "the work begins"


def test_sizes_are_reported() -> None:
    said = refused(lambda: iceprobe.probes.build_pooling("ep8?out_dim=1000000000", dim=768))
    assert said == (
        "probe 'ep8?out_dim=1000000000' would have 768,000,006,144 parameters, 3,072 GB for each "
        "setting and seed: take smaller numbers"
    )
    assert "image_size" in refused(lambda: iceprobe.load_backbone("bundled:mae-tiny?image_size=0"))
    many = "slot?iterations=1000000000000"
    assert "at most 1,000,000,000" in refused(lambda: iceprobe.probes.build_pooling(many, dim=12))


def test_long_values_keep_both_ends() -> None:
    """Thing, value and remedy are still said where the value has megabytes."""
    text = str(IceprobeError(f"the file {'x' * 10_000_000}: mend it there"))
    assert text.startswith("the file xxx")
    assert text.endswith("xxx: mend it there")
    assert len(text) < 2100
    assert len(shown("x" * 10**7)) <= 240
    assert shown(10**5000) == "a whole number of 16,610 bits"
    assert len(refused(lambda: parse_spec("a?" + "b" * 10**6))) < 700
