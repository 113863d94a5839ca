"""The memory of a fit whose tokens are streamed doesn't grow with the data set."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "streamed_memory.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no count of anonymous memory")
def test_peak_of_ten_times_the_images_is_within_a_tenth():
    """20 and 197 MB of tokens under a budget of 8 MB, beside some 450 MB of the process itself."""
    options = ["--images", "800", "--memory", "8000000"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=True
    )
    (times,) = re.findall(r"([0-9.]+) times$", done.stdout, re.M)
    assert float(times) < 1.1, done.stdout
