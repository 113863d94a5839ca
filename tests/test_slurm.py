"""``examples/slurm.sh`` as SLURM runs it: stopped by TERM, put back, it ends with the same results."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iceprobe.results import read_results

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "slurm.sh"
ASKED = ["--backbone", "bundled:mae-tiny", "--data", "bundled:fashion", "--limit", "200"]
ASKED += ["--probe", "ep4", "--seeds", "1", "--learning-rates", "1e-2", "--batch-size", "20"]

# What SLURM puts around a job. srun passes TERM on to its tasks, and says 143 where one died of it.
SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
shift
"$@" & task=$!
trap 'kill -TERM $task' TERM
wait $task; code=$?
while kill -0 $task 2>/dev/null; do wait $task; code=$?; done
exit $code
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
[ "$1" = show ] && echo node-1
exit 0
"""
ICEPROBE = f"""#!/bin/bash
exec {sys.executable} -m ${{MODULE:-iceprobe}} "$@"
"""


@pytest.fixture
def cluster(tmp_path):
    """The environment of a job, with stubs of SLURM's commands in front of PATH."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, body in {"srun": SRUN, "scontrol": SCONTROL, "iceprobe": ICEPROBE}.items():
        (stubs / name).write_text(body)
        (stubs / name).chmod(0o755)
    (tmp_path / "calls").touch()
    return os.environ | {
        "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node-[1-2]",
    }


def submit(cluster, folder: Path, *asked: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", SCRIPT, *ASKED, *asked], cwd=folder, env=cluster,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_job_that_is_stopped_goes_on_in_the_next(cluster, tmp_path):
    calls, moment = tmp_path / "calls", tmp_path / "moment"
    more = ["--epochs", "6"]
    waiting = f"tests.robustness.moments select_2/5 30 {moment}"  # in the middle of an epoch
    job = submit(cluster | {"MODULE": waiting}, tmp_path, *more)
    deadline = time.monotonic() + 240
    while not moment.exists():
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)  # to the batch script alone, as --signal=B: does
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    assert "scontrol requeue 4711" in calls.read_text()
    assert not (tmp_path / "runs" / "slurm-4711" / "results.json").exists()

    job = submit(cluster, tmp_path, *more)  # the same job number, as after a requeue
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    assert calls.read_text().count("requeue") == 1

    other = submit(cluster | {"OUTPUT": "runs/whole"}, tmp_path, *more)
    said, _ = other.communicate(timeout=240)
    assert other.returncode == 0, said
    stopped, whole = (read_results(tmp_path / "runs" / n)[0] for n in ("slurm-4711", "whole"))
    assert stopped.top1 == whole.top1
    assert stopped.selected == whole.selected


def test_an_error_ends_the_job_and_is_not_tried_again(cluster, tmp_path):
    job = submit(cluster, tmp_path, "--probe", "no-such-probe")
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 2
    assert "no-such-probe" in said
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_several_processes_go_through_torchrun(cluster, tmp_path):
    (tmp_path / "bin" / "torchrun").write_text("#!/bin/bash\nexit 0\n")
    (tmp_path / "bin" / "torchrun").chmod(0o755)
    job = submit(cluster | {"PROCESSES": "4", "SLURM_NNODES": "2"}, tmp_path)
    job.communicate(timeout=240)
    assert job.returncode == 0
    (line,) = [c for c in (tmp_path / "calls").read_text().splitlines() if c.startswith("srun")]
    assert "torchrun --nnodes 2 --nproc-per-node 4" in line
    assert "--rdzv-endpoint node-1:29400 -m iceprobe run --backbone bundled:mae-tiny" in line
