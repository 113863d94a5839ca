"""The machine: what it is, and how fast it copies, reads and multiplies.

    bandwidth = bytes read and written / seconds        matrix rate = 2·n·m·k / seconds

These are the limits that no code on the machine passes, taken by torch's own operations on arrays
far larger than the caches. A benchmark puts them among its sides (`yardsticks`), so that they are
measured in the same process and rounds as what they bound.
"""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iceprobe.machine.products import rows_by_rows
from iceprobe.results.provenance import environment

ARRAY_BYTES = 2**28  # eight times a last-level cache of 32 MiB
SQUARE = 2048  # rows of the square product: 17 GFLOP


@dataclass(frozen=True)
class Work:
    """A call and how much it does, in bytes or FLOPs."""

    run: Callable[[], object]
    amount: float


def yardsticks(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Work]:
    """``copy`` (bytes read and written), ``read`` (bytes read) and ``square`` (FLOPs in ``dtype``)."""
    source = torch.ones(ARRAY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return {
        "copy": Work(lambda: target.copy_(source), 2 * ARRAY_BYTES),
        "read": Work(source.sum, ARRAY_BYTES),
        "square": square(device, dtype),
    }


def square(device: torch.device, dtype: torch.dtype) -> Work:
    """A square matrix product, by the library that is fast on the machine (`iceprobe.machine.products`)."""
    matrix = torch.randn(SQUARE, SQUARE, device=device).to(dtype)
    return Work(lambda: rows_by_rows(matrix, matrix), product_flops(matrix, matrix))


def product(a: Tensor, b: Tensor) -> Work:
    """``a @ b``, with a batch axis in front or without."""
    return Work(lambda: a @ b, product_flops(a, b))


def product_flops(a: Tensor, b: Tensor) -> float:
    """2 × multiply–adds of ``a @ b``: ``(…, n, k)``, ``(…, k, m)``."""
    return 2.0 * a.numel() * b.shape[-1]


def describe(device: torch.device) -> dict[str, object]:
    """Processor, cores, memory, system and versions; nothing that names this one machine."""
    found = environment()
    described: dict[str, object] = {
        "processor": processor_name(found.pop("processor"), _cpuinfo()),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
    found.pop("platform")
    found.pop("iceprobe", None)  # its commit says more
    return {**described, "versions": found}


def file_name(described: dict[str, object]) -> str:
    """A readable name for the results of such a machine: ``amd-epyc-zen5-2-cores``."""
    name = described.get("gpu") or f"{described['processor']} {described['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")


def processor_name(model: str, cpuinfo: dict[str, str]) -> str:
    """The model's name, with the generation where the name leaves it out (virtual AMD machines)."""
    name = re.sub(r"\((R|TM)\)|Processor|CPU|@.*", "", model)
    if cpuinfo.get("vendor_id") == "AuthenticAMD" and not re.search(r"\d", name):
        wide = "avx512f" in cpuinfo.get("flags", "").split()
        zen = {"25": "Zen4" if wide else "Zen3", "26": "Zen5"}.get(
            cpuinfo.get("cpu family", ""), ""
        )
        name = f"{name} {zen}"
    return " ".join(name.split())


def _cpuinfo() -> dict[str, str]:
    """Of the first processor, where Linux tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").split("\n\n")[0].splitlines() if file.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
