"""The pure parts of benchmarks/: statistics, tables, and FLOPs and bytes worked out by hand."""

import ast
import ctypes
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import fit_members  # noqa: E402
import machine  # noqa: E402
import plan  # noqa: E402
import project_first  # noqa: E402
import run  # noqa: E402
import streamed_memory  # noqa: E402
import table  # noqa: E402
import whole_job  # noqa: E402
from measuring import Figure, Times, described, interleaved, quartiles  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from iceprobe.probes import absorb, build_pooling  # noqa: E402
from tests.reference import folded, probes  # noqa: E402

CPU = torch.device("cpu")


def figure(**changes) -> Figure:
    given = dict(name="a", what="b / c", device="cpu", value=8.0, spread=(7.5, 8.25))
    return Figure(**{**given, **changes})


def results(*figures: Figure) -> dict:
    about = {
        "name": "abacus", "processor": "Abacus 2", "cores": 2, "threads": 1, "memory_gb": 0.5,
        "system": "Wood x", "versions": {"torch": "9.9"},
    }  # fmt: skip
    benchmark = {
        "commit": "c0ffee",
        "load": 0.5,
        "seconds": 3,
        "figures": [f.row() for f in figures],
    }
    return json.loads(json.dumps({"machine": about, "benchmarks": {"probe_step": benchmark}}))


def test_quartiles_and_ratios_of_medians():
    assert quartiles([4, 1, 2, 3, 5]) == (2, 4)
    assert quartiles([1.0, 2.0]) == (1.25, 1.75)
    assert quartiles([7.0]) == (7.0, 7.0)
    times = Times({"slow": [10.0, 30.0, 20.0], "fast": [2.0, 3.0, 5.0]})
    assert times.ratio("slow", "fast") == 20 / 3
    assert times.spread("slow", "fast") == (4.5, 7.5)  # of 5, 10, 4


def test_sides_take_turns_and_the_first_round_does_not_count():
    order = []
    times = interleaved({s: lambda s=s: order.append(s) for s in "ab"}, rounds=2, device=CPU)
    assert order == ["a", "b"] * 3
    assert [len(of_side) for of_side in times.seconds.values()] == [2, 2]


@pytest.mark.parametrize(
    ("target", "met", "share"),
    [
        (dict(at_least=8.0, bound=10.0), True, 0.8),
        (dict(at_least=8.1), False, None),
        (dict(at_most=8.0, bound=2.0), True, 0.25),
        (dict(at_most=7.9), False, None),
        ({}, None, None),
    ],
)
def test_targets_and_bounds_in_both_directions(target, met, share):
    assert (figure(**target).met, figure(**target).share_of_bound) == (met, share)


def test_a_figure_is_reported_in_one_line():
    line = described(figure(at_least=9, bound=10.0, bounded_by="its FLOPs"))
    assert line == "a: 8 (7.5 to 8.25) b / c; wanted ≥ 9: NOT met; its FLOPs allows 10"


def test_the_tables_are_rendered_from_the_json():
    page = "x\n<!-- benchmarks: summary -->\nold\n<!-- end -->\ny\n<!-- benchmarks: knn --><!-- end -->"
    page = page.replace("knn --><", "probe_step -->\n<")
    first = figure(at_least=9, aim=12.0, bound=10.0, bounded_by="its FLOPs", details={"ms": 1234.5})
    second = figure(name="z", value=0.0123456, spread=(0.01, 0.02), details={"how": "run"})
    assert table.refreshed(page, [results(first, second)]) == (
        "x\n<!-- benchmarks: summary -->\n\n"
        "Abacus 2, 2 cores, 1 threads, 0.5 GB, Wood x; torch 9.9; iceprobe at c0ffee; "
        "load average when a benchmark began 0.5 to 0.5.\n\n"
        "| figure | of | on | measured | spread | wanted | met | the machine allows |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| a | b / c | cpu | **8** | 7.5 to 8.25 | ≥ 9 (aim 12) | **no** "
        "| 10 by its FLOPs: 80% reached |\n"
        "| z | b / c | cpu | **0.0123** | 0.01 to 0.02 |  |  |  |\n\n"
        "<!-- end -->\ny\n<!-- benchmarks: probe_step -->\n\n"
        "abacus:\n\n| figure | ms | how |\n| --- | --- | --- |\n| a | 1,234 |  |\n| z |  | run |\n\n"
        "<!-- end -->"
    )


def test_the_page_shows_what_was_measured():
    """Where it doesn't, `make docs` mends it. Every benchmark has its place."""
    page = table.PAGE.read_text()
    assert table.refreshed(page, table.read_results()) == page
    places = set(re.findall(r"<!-- benchmarks: (\S+) -->", page))
    assert places == {"summary", *run.SECONDS, *run.ON_GPU}


def test_results_name_no_machine_or_path():
    for file in table.RESULTS.glob("*.json"):
        content = file.read_text()
        assert "/home" not in content
        assert "/work" not in content
        assert json.loads(content)["machine"]["name"] == file.stem


@pytest.mark.parametrize(
    ("model", "cpuinfo", "name"),
    [
        ("AMD EPYC", {"vendor_id": "AuthenticAMD", "cpu family": "26"}, "AMD EPYC Zen5"),
        (
            "AMD EPYC",
            {"vendor_id": "AuthenticAMD", "cpu family": "25", "flags": "sse avx512f"},
            "AMD EPYC Zen4",
        ),
        (
            "AMD EPYC 7763 64-Core Processor",
            {"vendor_id": "AuthenticAMD", "cpu family": "25"},
            "AMD EPYC 7763 64-Core",
        ),
        ("Intel(R) Xeon(R) CPU @ 2.00GHz", {"vendor_id": "GenuineIntel"}, "Intel Xeon"),
        ("arm", {}, "arm"),
    ],
)
def test_processors_are_named_readably(model, cpuinfo, name):
    assert machine.processor_name(model, cpuinfo) == name


def test_file_names():
    described = {"processor": "AMD EPYC Zen5", "cores": 2}
    assert machine.file_name(described) == "amd-epyc-zen5-2-cores"
    assert machine.file_name({**described, "gpu": "NVIDIA H200"}) == "nvidia-h200"


def test_products_count_two_flops_a_multiply_add():
    assert machine.product_flops(torch.ones(3, 5), torch.ones(5, 7)) == 2 * 3 * 5 * 7
    assert machine.product_flops(torch.ones(2, 3, 5), torch.ones(2, 5, 7)) == 2 * 2 * 3 * 5 * 7
    a, b = torch.ones(2, 3), torch.full((3, 4), 2.0)
    assert machine.product(a, b).run().tolist() == [[6.0] * 4] * 2


REFERENCE = {
    "ep4": lambda x, p: probes.ep(x, p),
    "aim4": lambda x, p: probes.aim(x, p, 4, torch.nn.BatchNorm1d(8, 1e-6, affine=False).double()),
    "vjepa?heads=4": lambda x, p: folded.vjepa(x, p, 4),
    "siglip?heads=4": lambda x, p: folded.siglip(x, p, 4),
}


@pytest.mark.parametrize("spec", REFERENCE)
def test_project_first_is_the_published_probe(spec):
    pooling = build_pooling(spec, 8).double()
    tokens = torch.randn(3, 5, 8, dtype=torch.float64)
    name = re.match("[a-z]+", spec)[0]
    expected, _ = REFERENCE[spec](tokens, dict(pooling.named_parameters()))
    torch.testing.assert_close(
        project_first.FORWARD[name](pooling, tokens), expected.view(3, 8), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("spec", ["ep32", "aim12", "vjepa", "siglip"])
def test_step_flops_are_those_that_torch_counts(spec):
    """Matrix products of a whole step, as torch's own counter sees them, to 2%."""
    pooling = build_pooling(spec, 768)
    tokens = torch.randn(2, 196, 768)
    name = spec.rstrip("0123456789")
    forward = project_first.FORWARD[name]
    with FlopCounterMode(display=False) as counted:
        forward(pooling, tokens).sum().backward()
    macs = 2 * project_first.step_macs(name, pooling, 196, 768)
    assert counted.get_total_flops() == pytest.approx(2 * macs, rel=0.02)


def test_pool_first_flops_by_hand():
    """EP32: 4 · 196 · 32 · 768 over tokens and 3 · 768² for W_V."""
    macs = project_first.pool_first_macs(build_pooling("ep32", 768), 196)
    assert macs == 4 * 196 * 32 * 768 + 3 * 768**2
    siglip = absorb(build_pooling("siglip", 768))  # W_V, W_O and an MLP of 8 D²: ten D² behind
    assert project_first.pool_first_macs(siglip, 196) == 4 * 196 * 8 * 768 + 3 * 10 * 768**2


def test_flops_and_bytes_of_100_members():
    queries = 10 * (1 + 2 + 4 + 8 + 12 + 16 + 24 + 32 + 48 + 64)
    assert queries == 2110
    assert len(fit_members.MEMBERS) == 100
    assert fit_members.token_flops(queries) == 8 * 64 * 196 * 768 * 2110  # 162.6 GFLOP
    assert fit_members.value_flops(100) == 6 * 64 * 768**2 * 100
    assert fit_members.classifier_flops(100, 1000) == 6 * 64 * 768 * 1000 * 100
    parameters = fit_members.num_parameters(queries, 100, 1000)
    assert parameters == 2110 * 768 + 100 * (768 * 768 + 768 * 1000 + 1000)
    assert fit_members.step_bytes(parameters, 1000) == 2 * 1000 + 40 * parameters


def test_whole_jobs_by_hand():
    """40 settings, 30 · 6,000 training images and 2,000 reported on."""
    steps = dict.fromkeys(whole_job.PROBES, 0.0)
    assert whole_job.one_by_one(1.0, steps) == 40 * 182_000
    steps["ep8"] = 0.5
    assert whole_job.one_by_one(1.0, steps) == 40 * 182_000 + 5 * 90_000
    assert whole_job.one_live(0.5, 7.0) == 91_007


def test_a_plan_is_off_by_a_factor_either_way():
    assert plan.off(2.0, 4.0) == plan.off(4.0, 2.0) == 2.0
    assert plan.off(3.0, 3.0) == 1.0


def test_benchmarks_are_left_out_where_their_device_is_not(capsys):
    assert run.chosen([], CPU) == list(run.SECONDS)
    assert "attend_gpu: left out, it needs a GPU" in capsys.readouterr().out
    assert run.chosen(["plan", "knn"], torch.device("cuda")) == ["knn"]
    assert "plan: left out" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--only kn: the benchmarks are probe_step"):
        run.chosen(["kn"], CPU)


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc's count of bytes"
)
def test_a_streamed_fit_keeps_to_its_memory_and_one_that_holds_does_not():
    """20 and 197 MB of tokens, under a budget of 8 MB and under one that takes all of them."""
    small, large = (streamed_memory.peaks(images, 8_000_000)[1] for images in (800, 8_000))
    assert large < 1.1 * small
    assert streamed_memory.peaks(8_000, 10**9)[1] > large + 100_000_000


@pytest.mark.parametrize("folder", ["benchmarks", "tools", "examples"])
def test_what_is_imported_of_iceprobe_is_there(folder):
    """Scripts that no other test runs, imports within functions included."""
    scripts = list((Path(__file__).parents[2] / folder).rglob("*.py"))
    assert scripts
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("iceprobe"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    submodule = f"{node.module}.{name.name}"
                    there = hasattr(module, name.name) or importlib.util.find_spec(submodule)
                    assert there, f"{script.name}: from {node.module} import {name.name}"
