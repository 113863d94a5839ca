"""``iceprobe compare RUN --published`` and ``ls published``, and the report's section, on runs written by hand."""

import pytest

from iceprobe.cli import main
from iceprobe.reporting import report
from iceprobe.results import read_results
from iceprobe.results.files import write_results
from iceprobe.results.fitted import FittedResult
from tests.published.test_published import result


def iceprobe(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    return int(stopped.value.code or 0)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of k-NN, linear and EP8 on what its spec says is the published MAE ViT-B/16 on ImageNet-1k."""
    monkeypatch.setenv("COLUMNS", "160")
    found = [result("knn", seeds=[]), result("linear"), result("ep8")]
    folder = tmp_path / "run"
    folder.mkdir()
    write_results(folder, [FittedResult(**dict(one)) for one in found])
    return folder


def test_a_run_of_a_published_encoder_lies_beside_its_figures(run, capsys):
    assert iceprobe("compare", run, "--published") == 0
    lines = capsys.readouterr().out.splitlines()
    (ep,) = [line for line in lines if line.startswith("ep8") and "ep-benchmark" in line]
    assert ep.split()[:6] == ["ep8", "75.0", "74.0", "to", "76.0", "75.5‡"]
    assert "−0.5‡" in ep
    (knn,) = [line for line in lines if line.startswith("knn") and "ep-paper" in line]
    assert knn.split()[5] == "46.1‡"
    assert any(line.startswith("‡ selected on the reported split itself") for line in lines)
    assert any(
        line.split()[:5] == ["optimiser", "adamw", "lars", "linear,", "ep8"] for line in lines
    )
    assert any("results.csv of the authors' repository" in line for line in lines)


def test_the_report_has_them_too(run):
    report(read_results(run), run / "report.html")
    page = (run / "report.html").read_text()
    assert 'id="published"' in page
    assert "75.5‡" in page
    assert "What differs from ep-benchmark" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--published", "--against", "knn"], "--published with --against"),
        (["--published", "--as", "MAE ViT"], "Did you mean MAE ViT-"),
        (["--as", "MAE ViT-B/16"], "add --published"),
        (
            ["--published", "--on", "kinetics400"],
            "has 1,000 outputs and kinetics400 has 400 classes",
        ),
    ],
)
def test_a_wrong_question_is_answered_in_one_line(run, capsys, options, words):
    assert iceprobe("compare", run, *options) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert len(shown.splitlines()) == 1


def test_two_runs_and_a_run_that_nothing_is_beside_are_refused(run, tmp_path, capsys):
    assert iceprobe("compare", run, run, "--published") == 2
    assert "--published with 2 runs" in capsys.readouterr().err
    write_results(tmp_path, [FittedResult(**dict(result(backbone="bundled:mae-tiny")))])
    assert iceprobe("compare", tmp_path, "--published") == 2
    assert (
        "no published figure is of bundled:mae-tiny on imagenet1k?root=/data"
        in capsys.readouterr().err
    )
    assert iceprobe("compare", tmp_path, "--published", "--as", "MAE ViT-S/16") == 0
    assert "bundled:mae-tiny is taken for MAE ViT-S/16: you named it." in capsys.readouterr().out


def test_ls_published_lists_encoders_with_their_figures(capsys):
    assert iceprobe("ls", "published", "facebook/dinov2-large") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "imagenet1k, dinov2: knn 83.5, linear 86.3" in shown
    assert "imagenet1k, ep-benchmark: knn 81.0, linear 85.2, ep32 85.6" in shown
