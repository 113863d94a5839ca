"""What every test may use."""

import math
import os
import random
from collections.abc import Generator
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
import torch

os.environ["COLUMNS"] = "160"  # tables are as wide as here, whatever terminal runs the tests

# The same examples every time, and none fails because the machine was busy.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-chromium",
        action="store_true",
        help="a test skipped for want of chromium fails instead (continuous integration)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first: begun last, one would keep the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the global generators: what a test draws doesn't depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("require_chromium"):
        reason = str(report.longrepr)
        if "chromium" in reason.lower():
            report.outcome = "failed"
            report.longrepr = f"skipped under --require-chromium: {reason}"
    return report


@pytest.fixture
def no_signs(monkeypatch):
    """A command that takes long, on a busy machine, doesn't say that it is at work."""
    monkeypatch.setattr("iceprobe.cli.console.SECONDS_TO_FIRST_SIGN", math.inf)
    monkeypatch.setattr("iceprobe.machine.progress.SECONDS_TO_SIGN", math.inf)


@pytest.fixture
def one_part(monkeypatch):
    """A tenth selects, as of many images, where there are few."""
    from iceprobe.protocols.protocol import PROTOCOLS

    monkeypatch.setitem(PROTOCOLS, "heldout", replace(PROTOCOLS["heldout"], folds_below=0))
