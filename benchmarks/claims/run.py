"""The paper's claims as experiments: run them, judge them, write docs/claims.md (`make claims`).

    python -m benchmarks.claims.run               # all, offline, on bundled data
    python -m benchmarks.claims.run --only 3      # that claim; the others stay as they were
    python -m benchmarks.claims.run --without 7   # all but the one that trains the backbone
    python -m benchmarks.claims.run --fast        # a look with few images: does it run?

Each file of ``experiments/`` says data, backbones, settings, statistics and the rule of the verdict,
which was fixed before anything was run. Stores go to ``features/`` and fits to ``runs/claims/``, where
a killed run goes on; verdicts go to ``results.json`` beside this file and from there into the page.
A look keeps to ``runs/claims-look/`` and changes neither.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.claims import page
from benchmarks.claims.claim import Claim, Runs, look, read_claims
from benchmarks.claims.measures import STATISTICS
from benchmarks.claims.rules import Finding, together
from iceprobe.results.provenance import environment, git_commit

RESULTS = Path(__file__).parent / "results.json"
RUNS, LOOKS = Path("runs/claims"), Path("runs/claims-look")


def judge(claim: Claim, runs: Runs) -> dict[str, Any]:
    """One claim with its findings and verdict, ready for JSON."""
    began, making = time.monotonic(), runs.seconds
    findings: list[Finding] = []
    for test in claim.tests:
        findings += STATISTICS[test.statistic](claim, test, runs)
    measuring = time.monotonic() - began - (runs.seconds - making)
    return {
        "number": claim.number,
        "claim": claim.claim,
        "source": " ".join(claim.source.split()),
        "data": claim.data,
        "backbone": claim.backbone,
        "verdict": together(finding.verdict for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "seconds": {
            "fits": round(runs.fitting_seconds(claim), 1),
            "statistics": round(measuring, 1),
        },
        "command": f"python -m benchmarks.claims.run --only {claim.number}",
        "commit": (git_commit() or "an installed version")[:10],
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 1),
        "environment": environment(),
    }


def chosen(claims: list[Claim], only: list[int], without: list[int]) -> list[Claim]:
    """Those to run.

    Raises:
        SystemExit: for a number that there isn't.
    """
    known = [claim.number for claim in claims]
    for number in [*only, *without]:
        if number not in known:
            sys.exit(f"claim {number}: there are {', '.join(map(str, known))}")
    return [c for c in claims if (not only or c.number in only) and c.number not in without]


def main(arguments: list[str] | None = None) -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, action="append", default=[], help="repeatable")
    parser.add_argument("--without", type=int, action="append", default=[], help="repeatable")
    parser.add_argument("--fast", action="store_true", help="a look with few images")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where verdicts are kept")
    args = parser.parse_args(arguments)

    claims = [look(claim) for claim in read_claims()] if args.fast else read_claims()
    asked = chosen(claims, args.only, args.without)
    folder = LOOKS if args.fast else RUNS
    file = LOOKS / "results.json" if args.fast else args.results
    runs = Runs(
        folder,
        claims,
        [claim.number for claim in asked],
        adapt=not args.fast,
        progress=_Told(),
    )
    found = json.loads(file.read_text()) if file.exists() and not args.fast else []
    for claim in asked:
        print(f"claim {claim.number}: {claim.claim}", flush=True)
        entry = judge(claim, runs) | ({"look": True} if args.fast else {})
        print(page.in_words(entry), flush=True)
        found = sorted(
            [*(other for other in found if other["number"] != claim.number), entry],
            key=lambda one: one["number"],
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if not args.fast and args.results == RESULTS:
        page.write(found)


class _Told:
    """Progress of long stages, a line at each new one and every half minute."""

    def __init__(self) -> None:
        self.stage, self.last = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self.stage or now - self.last > 30:
            self.stage, self.last = stage, now
            print(f"  {stage} {done}/{total}", flush=True)


if __name__ == "__main__":
    main()
