"""Time and memory of orders, as ratios: ``python benchmarks/order_speed.py``; ``… cliffs`` for programs alone.

Everything in one run, forward + backward unless it says otherwise, medians of repeated calls with the spread (smallest
and largest). Needs `softtorch` for the comparison with it (``pip install --no-deps --ignore-requires-python softtorch``
and its dependencies ``pot numba torchopt``); without it those lines say so.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
import warnings

import torch
from rich.console import Console
from rich.table import Table

import sll

console = Console(width=120)


def milliseconds(calls, repeats=9):
    """Median, smallest and largest time of each call, taken in turns so that all see the same machine. A short call is
    repeated for 20 ms in its turn.
    """
    inner = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        inner[name] = max(1, int(0.02 / (time.perf_counter() - start)))
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(inner[name]):
                call()
            times[name].append(1e3 * (time.perf_counter() - start) / inner[name])
    return {name: (statistics.median(t), min(t), max(t)) for name, t in times.items()}


def both_ways(f, x, g):
    return lambda: torch.autograd.grad(f(x), x, g)


def show(title, base, figures):
    table = Table("", "median ms", "smallest … largest", f"ratio to {base}", title=title)
    for name, (median, low, high) in figures.items():
        table.add_row(name, f"{median:.2f}", f"{low:.2f} … {high:.2f}", f"{median / figures[base][0]:.2f}")
    console.print(table)


def inputs(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator).requires_grad_(), torch.randn(n, generator=generator)


def dense_rank(x, eps):
    """The definition, O(n^2)."""
    return sll.heaviside(x[:, None] - x, eps).sum(1) - 0.5


def exactness() -> None:
    worst = [0.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 50, 1000):
        for eps in (1e-6, 1e-3, 0.137, 3.37, 100.0):
            for decimals in (1, 12):  # with ties, without
                x = torch.round(torch.randn(n, generator=generator, dtype=torch.float64), decimals=decimals)
                x.requires_grad_()
                g = torch.randn(n, generator=generator, dtype=torch.float64)
                fast, dense = sll.rank(x, eps=eps), dense_rank(x, eps)
                slopes = [torch.autograd.grad(y, x, g)[0] * eps for y in (fast, dense)]
                worst[0] = max(worst[0], float((fast - dense).detach().abs().max()))
                worst[1] = max(worst[1], float((slopes[0] - slopes[1]).abs().max()))
    console.print(f"rank against the dense formula, float64: values {worst[0]:.1e}, gradients x eps {worst[1]:.1e}")


def million() -> None:
    x, g = inputs(1_000_000)
    calls = {"argsort(argsort(x)), forward only": lambda: x.detach().argsort().argsort()}
    for eps in (1e-6, 1e-3, 1.0):
        calls[f"rank, eps {eps:g}"] = both_ways(lambda x, eps=eps: sll.rank(x, eps=eps), x, g)
    show("rank, n = 1e6", next(iter(calls)), milliseconds(calls))

    calls = {"topk(x, 1000), forward only": lambda: x.detach().topk(1000)}
    for eps in (1e-6, 1e-3, 1e-2, 1.0):
        near = int((x.detach() > x.detach().topk(1000).values[-1] - eps).sum()) - 1000
        calls[f"topk_mask, eps {eps:g} ({near} in the band)"] = both_ways(
            lambda x, eps=eps: sll.topk_mask(x, 1000, eps=eps), x, g
        )
    show("topk_mask, n = 1e6, k = 1000", next(iter(calls)), milliseconds(calls))


def against_softtorch() -> None:
    try:
        import softtorch
    except ImportError:
        console.print("softtorch is not installed: no comparison")
        return
    x, g = inputs(4096)
    calls = {"sll.rank": both_ways(lambda x: sll.rank(x, eps=0.1), x, g)}
    for method in ("softsort", "fast_soft_sort"):
        calls[f"softtorch.rank, {method}"] = both_ways(
            lambda x, method=method: softtorch.rank(x, method=method, softness=0.1), x, g
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        show("rank, n = 4096", "sll.rank", milliseconds(calls))


def in_region() -> None:
    """What a call costs in a region, with an index that nobody uses and with its weights worked out, and a pairwise
    metric with its backward pass.
    """
    from torchmetrics.functional.regression import kendall_rank_corrcoef

    x, _ = inputs(1_000_000)
    scores = torch.randn(1024, 1000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    p, t = inputs(300)
    calls = {"argmax, 1024 x 1000": lambda: scores.argmax(1), "max, 1024 x 1000": lambda: scores.max(1),
             "topk, 100 of 1e6": lambda: x.topk(100), "sort, 1e6": lambda: x.sort()}  # fmt: skip
    table = Table("", "outside, ms", "in a region, eps 1e-3, ms", "ratio")

    def used(out):
        return (out if isinstance(out, torch.Tensor) else out.indices)[..., None]

    for name, call in calls.items():
        outside = milliseconds({name: call}, 5)[name][0]
        for what, f in ((name, call), (f"{name}, weights used", lambda call=call: used(call()))):
            with sll.linearize(1e-3):
                inside = milliseconds({name: f}, 5)[name][0]
            table.add_row(what, f"{outside:.2f}", f"{inside:.2f}", f"{inside / outside:.1f}")

    def kendall():
        with sll.linearize(1e-2):
            tau = kendall_rank_corrcoef(p, t)
        torch.autograd.grad(tau, p)

    outside = milliseconds({"": lambda: kendall_rank_corrcoef(p.detach(), t)}, 3)[""][0]
    inside = milliseconds({"": kendall}, 3)[""][0]
    table.add_row(
        "torchmetrics Kendall, n = 300, eps 1e-2, with backward",
        f"{outside:.1f}",
        f"{inside:.0f}",
        f"{inside / outside:.0f}",
    )
    console.print(table)


EDGES = torch.linspace(-3, 3, 51)
TABLE = torch.linspace(-1, 1, 100_001).cos()
PROGRAMS = {
    "a table by argsort": lambda x, w: w[x.argsort()],
    "ranks as a mask": lambda x, w: (x.argsort().argsort() >= len(x) // 2).float() * w,
    "ranks in where": lambda x, w: torch.where(x.argsort().argsort() < len(x) // 10, x, w),
    "function of ranks": lambda x, w: (x.argsort().argsort() * 10 // len(x)).float() * w,
    "best tenth of an order as a mask": lambda x, w: (
        torch.zeros_like(x).index_fill(0, x.argsort()[: len(x) // 10], 1.0) * w
    ),
    "area under the curve": lambda x, w: ((w[x.argsort()] < 0).cumsum(0) * (w > 0)[x.argsort()]).sum() / len(x),
    "topk of a tenth as a mask": lambda x, w: torch.zeros_like(x).scatter(0, x.topk(len(x) // 10).indices, 1.0) * w,
    "topk of a tenth as an index": lambda x, w: w[x.topk(len(x) // 10).indices],
    "topk of 5 as an index": lambda x, w: w[x.topk(5).indices],
    "topk of 2 in rows of 8": lambda x, w: w.view(-1, 8).gather(1, x.view(-1, 8).topk(2, 1).indices),
    "median as an index": lambda x, w: w[x.median(0).indices],
    "kthvalue as an index": lambda x, w: w[x.kthvalue(len(x) // 3).indices],
    "bucketize, a table": lambda x, w: TABLE[torch.bucketize(x, EDGES)],
    "bucketize, not used": lambda x, w: (x * 2, torch.bucketize(x, EDGES))[0],
    "bincount of buckets": lambda x, w: torch.bincount(torch.bucketize(x, EDGES), minlength=52).float() * EDGES.sum(),
    "histc": lambda x, w: x.histc(20, -3, 3) * EDGES[:20],
    "run lengths": lambda x, w: torch.bincount((x > 0).diff().cumsum(0)).float().square(),
    "count in a table": lambda x, w: TABLE[(x > 1).cumsum(0)],
    "floor in a loop": lambda x, w: floors(x),
    "long in a loop": lambda x, w: lookups(x),
}


def floors(x):
    v = x
    for _ in range(40):
        v = torch.where(v > 1, v - 0.5 * torch.floor(v / 0.5), v + 0.1 * x)
    return v


def lookups(x):
    v = x
    for _ in range(40):
        v = v * 0.9 + TABLE[(v * 2).long().clamp(0, 15)] * 0.1
    return v


def both_ways_of_sum(program, x, w):
    torch.autograd.grad(program(x, w).sum() + 0 * x.sum(), x)


def cpu_milliseconds(step, repeats=7):
    """Least time of this thread: what else runs does not count."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        step()
        times.append(1e3 * (time.thread_time() - start))
    return min(times)


def cliffs() -> None:
    """Programs in a region, forward + backward, and the programs themselves, whose decisions have no gradient: the
    worst first.
    """
    table = Table("", "numbers", "without, ms", '"auto"', "eps 0.1", title="ratios to the program without a region")
    rows = []
    for name, program in PROGRAMS.items():
        for n in (64, 10_000, 100_000) if "loop" not in name else (64, 4096):
            step = functools.partial(both_ways_of_sum, program, *inputs(n))
            times = [cpu_milliseconds(step)]
            for eps in ("auto", 0.1):
                step_inside = sll.enable(eps, forward="straight-through", on_lost="ignore")(step)
                for _ in range(12):  # "auto" measures
                    step_inside()
                times.append(cpu_milliseconds(step_inside))
            rows.append((name, n, times[0], times[1] / times[0], times[2] / times[0]))
    for name, n, alone, *ratios in sorted(rows, key=lambda row: -max(row[3:])):
        table.add_row(name, f"{n}", f"{alone:.2f}", *(f"{ratio:.1f}" for ratio in ratios))
    console.print(table)


def memory() -> None:
    """Largest resident size of a process of its own, beyond what it had before the call (Linux)."""
    n = 10_000_000
    code = (
        f"import resource, torch, sll; torch.set_num_threads(1); x = torch.randn({n}).requires_grad_();"
        f"g = torch.ones({n}); sll.rank(x[:100]).sum().backward(); sll.topk_mask(x[:100], 5).sum().backward();"
        "x.detach()[:100].argsort();"
        "before = int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize();"
        "y = CALL; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)"
    )
    calls = {
        "argsort(argsort(x))": "x.detach().argsort().argsort()",
        "rank, forward + backward": "torch.autograd.grad(sll.rank(x, eps=1e-3), x, g)",
        "rank, everything in the band": "torch.autograd.grad(sll.rank(x, eps=100.0), x, g)",
        "topk_mask, k = 1000": "torch.autograd.grad(sll.topk_mask(x, 1000, eps=1e-3), x, g)",
    }
    table = Table("n = 1e7, float32", "peak beyond the input, MB", "bytes per element")
    for name, call in calls.items():
        command = [sys.executable, "-c", code.replace("CALL", call)]
        size = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        table.add_row(name, f"{size / 2**20:.0f}", f"{size / n:.0f}")
    console.print(table)


if __name__ == "__main__":
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in (
        (cliffs,) if sys.argv[1:] == ["cliffs"] else (exactness, million, against_softtorch, in_region, cliffs, memory)
    ):
        part()
