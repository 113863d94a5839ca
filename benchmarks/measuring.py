"""How a benchmark is measured and said: rounds that take turns, medians, and figures.

    value = median over rounds of side A / median over rounds of side B

All sides of a figure, and the yardsticks of the machine beside them (`machine.py`), run in one
process and take turns within every round, so that each round sees the machine as loaded at that
moment. The spread is that of the ratio within single rounds: its lower and upper quartile.
"""

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iceprobe.machine.allocator import keep_freed_memory

#: Runs the figures of one file: device, rounds (``None``: the file's own number) → figures.
Measure = Callable[[torch.device, int | None], "list[Figure]"]


@dataclass(frozen=True)
class Figure:
    """One measured number beside what was wanted and what the machine allows.

    Attributes:
        name: unique within its file.
        what: of what and over what, in a few words: "project-first / pool-first".
        device: ``"cpu"`` or ``"cuda"``.
        value: the figure.
        spread: lower and upper quartile over rounds, or the least and the most where rounds are few.
        at_least, at_most: the target; none where the figure only informs.
        aim: beyond the target.
        bound: what the value would be if the machine's limit were reached; ``None`` where no limit
            was measured.
        bounded_by: that limit, in words.
        details: what the value is made of: times, rates, bytes, FLOPs; units stand in the names.
    """

    name: str
    what: str
    device: str
    value: float
    spread: tuple[float, float]
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    bound: float | None = None
    bounded_by: str = ""
    details: dict[str, float | str] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; ``None`` without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    @property
    def share_of_bound(self) -> float | None:
        """How much of what the machine allows is reached, 1 being all of it."""
        if self.bound is None:
            return None
        return self.bound / self.value if self.at_most is not None else self.value / self.bound

    def row(self) -> dict[str, Any]:
        """All of it, as the JSON has it."""
        return {**asdict(self), "met": self.met, "share_of_bound": self.share_of_bound}


class Times:
    """Seconds of every side in every round."""

    def __init__(self, seconds: Mapping[str, list[float]]):
        self.seconds = seconds

    def median(self, side: str) -> float:
        return statistics.median(self.seconds[side])

    def ratio(self, over: str, under: str) -> float:
        return self.median(over) / self.median(under)

    def spread(self, over: str, under: str) -> tuple[float, float]:
        """Quartiles of the ratio within a round."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=True)
        return quartiles([a / b for a, b in pairs])


def quartiles(values: list[float]) -> tuple[float, float]:
    """Lower and upper quartile, by linear interpolation; of one value, the value."""
    if len(values) == 1:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warmup: int = 1,
) -> Times:
    """Run every side once a round, one after the other; the first ``warmup`` rounds don't count."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(warmup + rounds):
        for side, work in sides.items():
            taken = timed(work, device)
            if number >= warmup:
                seconds[side].append(taken)
    return Times(seconds)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of one call, on a GPU until its work is done."""
    synchronise(device)
    began = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class _MallInfo2(ctypes.Structure):
    """Of glibc (malloc.h): bytes in use are those of small blocks and those mapped by themselves."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names.split())


def memory_in_use() -> int:
    """Bytes that tensors, arrays and libraries of this process hold of glibc's allocator, in all threads.

    What the allocator keeps of the system's memory beside is more, and varies by chance.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        raise RuntimeError("this system doesn't tell memory in use (glibc 2.33 does)")
    libc.mallinfo2.restype = _MallInfo2
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


class PeakMemory(TorchDispatchMode):
    """Within its block: memory in use at the start and at most, ``before`` and ``peak`` in bytes.

    It is read after every operation of torch in the thread that entered the block, backward passes
    included: no moment is missed because the machine is busy.
    """

    def __enter__(self) -> "PeakMemory":
        self.before = self.peak = memory_in_use()
        super().__enter__()
        return self

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = operation(*args, **(kwargs or {}))
        self.peak = max(self.peak, memory_in_use())
        return made


def run_alone(measure: Measure, description: str) -> None:
    """The command line of a file of figures: measure, tell, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, help="by default the file's own number")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(f"--device {args.device}: there is no GPU here")
    keep_freed_memory()  # as the command line does
    torch.manual_seed(0)
    figures = measure(device, args.rounds)
    for figure in figures:
        print(described(figure))
    if args.json:
        args.json.write_text(json.dumps([figure.row() for figure in figures], indent=1) + "\n")


def described(figure: Figure) -> str:
    """One line for the terminal."""
    low, high = figure.spread
    line = f"{figure.name}: {figure.value:.3g} ({low:.3g} to {high:.3g}) {figure.what}"
    if figure.at_least is not None or figure.at_most is not None:
        wanted = f"≥ {figure.at_least}" if figure.at_least is not None else f"≤ {figure.at_most}"
        line += f"; wanted {wanted}: {'met' if figure.met else 'NOT met'}"
    if figure.bound is not None:
        line += f"; {figure.bounded_by} allows {figure.bound:.3g}"
    return line
