"""Forward + backward of one pooling: pool-first against project-first, in one process.

    python benchmarks/probe_step.py                      # float32, B=64, N=196, D=768
    python benchmarks/probe_step.py --dtype bfloat16 --threads 1 --output build/probe_step.json

Both sides have the same parameters and tokens, compute gradients of all parameters and of no
token, and take turns within every round; the ratio is that of the medians. Project-first is how
the publications' code does it: every token through W_V (and W_K), attention over the projected
tokens, in large matrix products.

On a machine with other work, threads wait for one another at every product, and the side with
the shorter products waits more often: at a load of 5 on two cores EP32's ratio was 8.4 to 8.6 with
one thread and 3 to 5 with two. Take figures on a quiet machine, or with ``--threads 1``.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from iceprobe.probes import build_pooling
from iceprobe.probes.pooling import Pooling

SPECS = ["ep1", "ep12", "ep32", "ep64", "mhca12", "aim12"]


def project_ep(pooling: nn.Module, tokens: Tensor) -> Tensor:
    """EP with all N tokens through W_V."""
    queries = pooling.query * tokens.shape[-1] ** -0.5
    weights = torch.softmax(queries @ tokens.mT, -1)
    return _weighted(weights, F.linear(tokens, pooling.value.weight))


def project_mhca(pooling: nn.Module, tokens: Tensor) -> Tensor:
    """MHCA with all N tokens through W_K and W_V."""
    heads = pooling.num_predictors
    keys = F.linear(tokens, pooling.key.weight).unflatten(-1, (heads, -1)).transpose(1, 2)
    query = pooling.query.view(1, heads, 1, -1) * keys.shape[-1] ** -0.5
    weights = torch.softmax(query @ keys.mT, -1).squeeze(2)
    return _weighted(weights, F.linear(tokens, pooling.value.weight))


def project_aim(pooling: nn.Module, tokens: Tensor) -> Tensor:
    """AIM with all N tokens normalised, then through W_K and W_V."""
    rows = F.batch_norm(
        tokens.flatten(0, 1), pooling.running_mean, pooling.running_var, training=True, eps=1e-6
    )
    return project_mhca(pooling, rows.view_as(tokens))


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """``(B, M, N)``, ``(B, N, D_o)`` → ``(B, D_o)``."""
    values = values.unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)
    return (weights.unsqueeze(2) @ values).flatten(1)


PROJECT_FIRST = {"ep": project_ep, "mhca": project_mhca, "aim": project_aim}


def step(forward: Callable[[Tensor], Tensor], pooling: Pooling, tokens: Tensor) -> list[Tensor]:
    """Gradients of all parameters."""
    parameters = list(pooling.parameters())
    return list(torch.autograd.grad(forward(tokens).square().mean(), parameters))


def measure(spec: str, tokens: Tensor, rounds: int) -> dict[str, float | str]:
    """Median milliseconds of both formulations, and their ratio.

    Raises:
        AssertionError: if the two don't agree on the gradients.
    """
    pooling = build_pooling(spec, tokens.shape[-1]).to(tokens.device)
    plain = build_pooling(spec, tokens.shape[-1]).to(tokens)
    plain.load_state_dict(pooling.state_dict())
    reference = PROJECT_FIRST[spec.rstrip("0123456789")]
    sides: dict[str, Callable[[], list[Tensor]]] = {
        "pool_first": lambda: step(pooling, pooling, tokens),
        "project_first": lambda: step(lambda x: reference(plain, x), plain, tokens),
    }
    narrow = tokens.dtype != torch.float32
    for a, b in zip(sides["pool_first"](), sides["project_first"](), strict=True):
        gap = (a - b).abs().max() / b.abs().max()
        assert gap < (0.2 if narrow else 1e-3), f"{spec}: gradients differ by {gap:.1e}"
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, run in sides.items():
            _synchronise(tokens.device)
            start = time.perf_counter()
            run()
            _synchronise(tokens.device)
            seconds[side].append(time.perf_counter() - start)
    medians = {f"{side}_ms": 1e3 * statistics.median(times) for side, times in seconds.items()}
    ratio = medians["project_first_ms"] / medians["pool_first_ms"]
    pairs = zip(seconds["project_first"], seconds["pool_first"], strict=True)
    of_rounds = sorted(slow / fast for slow, fast in pairs)
    quarter = len(of_rounds) // 4
    return {
        "probe": spec,
        **medians,
        "ratio": ratio,
        "ratio_lower_quartile": of_rounds[quarter],
        "ratio_upper_quartile": of_rounds[-1 - quarter],
    }


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probe", action="append", help=f"repeatable; default {SPECS}")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=196, help="N")
    parser.add_argument("--dim", type=int, default=768, help="D")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = (options.batch_size, options.tokens, options.dim)
    tokens = torch.randn(shape).to(options.device, getattr(torch, options.dtype))
    print(
        f"{shape} {options.dtype}, {options.device}, {options.threads} threads, medians of rounds"
    )
    print(f"{'probe':8} {'project-first':>14} {'pool-first':>11} {'ratio':>6}  quartiles of rounds")
    rows = []
    for spec in options.probe or SPECS:
        row = measure(spec, tokens, options.rounds)
        rows.append(row)
        print(
            f"{spec:8} {row['project_first_ms']:11.1f} ms {row['pool_first_ms']:8.1f} ms "
            f"{row['ratio']:6.1f}  {row['ratio_lower_quartile']:.1f} to "
            f"{row['ratio_upper_quartile']:.1f}",
            flush=True,
        )
    figures = {
        "shape": shape,
        "dtype": options.dtype,
        "device": options.device,
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": torch.__version__,
        "machine": platform.platform(),
        "results": rows,
    }
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
