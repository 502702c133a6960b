"""How fast `sll` is, beside what people use today: ``python benchmarks/perf``.

    python benchmarks/perf                                       # everything, 1 thread and 2; takes more than an hour
    python benchmarks/perf --quick --only elementwise overhead   # minutes: small tensors, few rounds, one thread
    python benchmarks/perf --only small overhead                 # four minutes: small programs against their limits
    python benchmarks/perf --brief --rounds 9                    # half an hour: what docs/performance-measured.md shows
    python benchmarks/perf --device cuda
    python benchmarks/perf --write docs/performance-measured.md

float32, forward and backward. What is compared takes turns (A B C B C A …) in one process; a figure is the median of
the ratios of single rounds, with their quartiles. All samples go to a JSON file. SoftTorch and the published package
are compared if they are there (``make evidence`` installs both).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import report
import sections
import torch
from bench import Bench
from competitors import OPS, load, load_published
from figures import Results, facts
from rich.console import Console
from timing import Clock


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks/perf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="n = 1e5, a third of the rounds, one thread")
    parser.add_argument("--brief", action="store_true",
                        help="compile for one size and one thread only, nothing that takes minutes")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads (default: 1 2)")
    parser.add_argument("--only", nargs="+", choices=sections.SECTIONS, metavar="NAME",
                        default=list(sections.SECTIONS), help=f"of {', '.join(sections.SECTIONS)}")  # fmt: skip
    parser.add_argument("--sizes", type=lambda n: int(float(n)), nargs="+", metavar="N", help="elements of a tensor")
    parser.add_argument("--ops", nargs="+", choices=[op.name for op in OPS], metavar="OP",
                        help=f"of {', '.join(op.name for op in OPS)}")  # fmt: skip
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for perf.json")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the figures into this page")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this torch sees no GPU")
    sizes = options.sizes or ([10**5] if options.quick else [10**6, 10**7])
    threads = options.threads or ([1] if options.quick or options.device == "cuda" else [1, 2])
    rounds = options.rounds or (5 if options.quick else 15)
    if options.write is not None:
        report.replaced(options.write.read_text(encoding="utf-8"), "")  # complains now rather than in an hour

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)  # a file has no width
    ops = [op for op in OPS if options.ops is None or op.name in options.ops]
    known = facts(options.device, threads, rounds, options.quick)
    results = Results()
    softtorch, published = load("softtorch"), load_published()
    for name, module in (("SoftTorch", softtorch), ("The published package", published)):
        if module is None:
            results.note(f"{name} is not installed (`make evidence` does it): not compared.")
    clock = Clock(options.device, rounds, least=0.005 if options.quick else 0.02)
    with console.status("") as status:
        for turn, number in enumerate(threads):
            torch.set_num_threads(number)
            names = [name for name in sections.SECTIONS if name in options.only]
            once = (*sections.ONCE, *(("compiled",) if options.brief else ()))
            names = [name for name in names if turn == 0 or name not in once]
            brief = options.quick or options.brief
            bench = Bench(
                clock, number, sizes, ops, options.quick, brief, turn, results, softtorch, published, status.update
            )
            sections.run(bench, names)

    options.out.mkdir(parents=True, exist_ok=True)
    record = {"facts": known, "notes": results.notes, "captions": results.captions,
              "figures": [figure.to_dict() for figure in results.figures]}  # fmt: skip
    path = options.out / "perf.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    console.print(f"All samples: [bold]{path}[/bold]")
    report.show(results, known, console)
    if options.write is not None:
        report.write(options.write, results, known)


if __name__ == "__main__":
    main()
