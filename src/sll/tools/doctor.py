"""`sll doctor`: whether it works on this machine, and what a bug report should say."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

import sll

from .._ops import fused
from .console import FAILED, print_json, working


def doctor(compile_too: bool, as_json: bool) -> None:
    versions = {"sll": sll.__version__, "torch": torch.__version__, "python": platform.python_version()}
    versions.update({package: _version(package) for package in _OPTIONAL})  # type: ignore[misc]
    devices = _devices()
    with working("checking"):
        names = [device["device"] for device in devices]
        checks = [_examined(*check) for check in _checks(names, compile_too)]
    found = {
        "ok": all(check["status"] != "failed" for check in checks),
        "versions": versions,
        "devices": devices,
        "accelerations": _accelerations(),
        "checks": checks,
        "function_modes": _foreign_modes(),
        "known_problems": _known_problems(),
    }
    if as_json:
        print_json(found)
    else:
        _show_examination(found)
    if not found["ok"]:
        raise typer.Exit(FAILED)


_OPTIONAL = {
    "numba": True,
    "matplotlib": True,
    "rich": True,
    "typer": True,
    "scikit-learn": True,
    "torchmetrics": True,
    "pandas": False,
    "numpy": False,
    "triton": False,
}
"""Package -> whether something of ours needs it."""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


_RELEASE = tuple(map(int, torch.__version__.split(".")[:2]))
_COMPILES = _RELEASE >= (2, 10)


def _devices() -> list[dict[str, Any]]:
    found = [{"device": "cpu", "detail": f"{platform.machine()}, threads: {torch.get_num_threads()}"}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        detail = f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
        found.append({"device": f"cuda:{index}", "detail": detail})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "detail": "Metal"})
    return found


def _accelerations() -> list[dict[str, Any]]:
    """What could be faster here. Not having one is no failure."""
    wanted = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = shutil.which(wanted)
    if not _COMPILES:
        on_cpu = "torch.compile in a region needs PyTorch 2.10"
    elif compiler is None:
        on_cpu = f"no C++ compiler: install {wanted}, or let CXX name one"
    else:
        on_cpu = f"C++ compiler {compiler} is found; --compile tries it"
    triton, cuda = _version("triton"), torch.cuda.is_available()
    without_cuda = "this build of torch has none" if torch.version.cuda is None else "no GPU, or no driver, is found"
    if fused.available():
        loops = f"numba {_version('numba')}, for tensors of {fused.LEAST} elements and more, eager"
    else:
        loops = "numba " + ("does not work here" if _version("numba") else "is not installed")
    return [
        {"name": "steps in one pass on cpu", "available": fused.available(), "detail": loops},
        {"name": "torch.compile, inductor on cpu", "available": _COMPILES and compiler is not None, "detail": on_cpu},
        {
            "name": "torch.compile, inductor on cuda",
            "available": _COMPILES and cuda and triton is not None,
            "detail": f"triton {triton or 'is not installed'}" + ("" if cuda else ", no cuda"),
        },
        {"name": "cuda", "available": cuda, "detail": f"CUDA {torch.version.cuda}" if cuda else without_cuda},
    ]


def _discrete(x: Tensor) -> Tensor:
    return torch.round(torch.sign(x) * 10).sum()


def _derivative(program: Callable[[Tensor], Tensor], device: str) -> list[float]:
    x = torch.tensor([-1.0, 0.0, 1.0], device=device, requires_grad=True)
    with sll.linearize(eps=1e-2):
        (gradient,) = torch.autograd.grad(program(x), x)
    found: list[float] = gradient.tolist()
    return found


def _is_right(found: list[float]) -> str | None:
    """Two decisions, composed: 10 / eps at zero, nothing elsewhere."""
    expected = [0.0, 1000.0, 0.0]
    error = max(abs(a - b) for a, b in zip(found, expected))
    return None if error <= 1e-2 else f"the gradient is {found}, not {expected}"


def _check_gradient(device: str) -> str | None:
    return _is_right(_derivative(_discrete, device))


def _check_hard(device: str) -> str | None:
    x = torch.linspace(-2, 2, 101, device=device, requires_grad=True)
    with sll.linearize(eps=0.3, forward="hard"):
        same = torch.equal(torch.round(x), torch.round(x.detach()))
    return None if same else 'a value with forward="hard" is not that of the program'


def _check_compiled(device: str, backend: str) -> str | None:
    torch._dynamo.reset()
    try:
        return _is_right(_derivative(torch.compile(_discrete, backend=backend, fullgraph=True), device))
    finally:
        torch._dynamo.reset()


def _check_deterministic(device: str) -> str | None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).to(device)
    table = torch.linspace(0, 1, 17, device=device)

    def gradient() -> Tensor:
        x = values.clone().requires_grad_()
        with sll.linearize(eps=0.1):
            level = torch.round(x * 4).long().clamp(-8, 8)
            y = torch.where(x > 0, table[level + 8], x) * (x > 0.5).sum()
        return torch.autograd.grad(y.sum(), x)[0]

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        same = torch.equal(gradient(), gradient())
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    return None if same else "two runs on the same input differ"


def _checks(devices: list[str], compile_too: bool) -> Iterator[tuple[str, str, Callable[[], str | None] | str]]:
    """Name, device, and what runs: it returns what is wrong, or None. A string says why nothing runs."""
    recent = _RELEASE >= (2, 6)
    yield "PyTorch 2.6 or later", "", lambda: None if recent else "pip install --upgrade torch"
    backends = ("aot_eager", "inductor") if compile_too else ("aot_eager",)
    for device in devices:
        yield "gradient", device, partial(_check_gradient, device)
        yield 'forward="hard" keeps every value', device, partial(_check_hard, device)
        yield "deterministic", device, partial(_check_deterministic, device)
        for backend in backends:
            compiled = partial(_check_compiled, device, backend)
            yield f"gradient, compiled ({backend})", device, compiled if _COMPILES else "needs PyTorch 2.10"


def _examined(name: str, device: str, check: Callable[[], str | None] | str) -> dict[str, Any]:
    start = time.perf_counter()
    if isinstance(check, str):
        status, detail = "skipped", check
    else:
        try:
            wrong = check()
        except Exception as error:  # whatever a broken installation raises is what we want to know
            wrong = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        status, detail = ("passed", "") if wrong is None else ("failed", wrong)
    seconds = round(time.perf_counter() - start, 3)
    return {"name": name, "device": device, "status": status, "detail": detail, "seconds": seconds}


def _foreign_modes() -> list[str]:
    """Torch function modes that are on and are not ours: they see each call before or after a region does."""
    stack = torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    kinds = [type(mode) for mode in stack]
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds if kind.__module__ != sll.linearize.__module__]


def _known_problems() -> list[str]:
    old = f"torch {torch.__version__} cannot compile a region: run it uncompiled, or upgrade to PyTorch 2.10 or later"
    return [] if _COMPILES else [old]


def _show_examination(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    grid = Table.grid(padding=(0, 2))
    for package, version in found["versions"].items():
        absent = f"not installed: pip install {package}" if _OPTIONAL.get(package) else "not installed"
        grid.add_row(package, Text(version or absent, style="" if version else "dim"))
    for device in found["devices"]:
        grid.add_row(device["device"], Text(device["detail"]))
    for acceleration in found["accelerations"]:
        available = Text.assemble(("yes", "green") if acceleration["available"] else ("no", "yellow"))
        grid.add_row(acceleration["name"], available.append(f": {acceleration['detail']}", style="default"))
    modes = ", ".join(found["function_modes"])
    grid.add_row("torch function modes", Text(f"of other libraries, they see calls, too: {modes}" if modes else "none"))
    console.print(grid)
    console.print()
    styles = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
    grid = Table.grid(padding=(0, 2))
    for check in found["checks"]:
        status = Text(check["status"], style=styles[check["status"]])
        grid.add_row(status, check["device"], check["name"], Text(check["detail"]))
    console.print(grid)
    for problem in found["known_problems"]:
        console.print(Text.assemble(("\nknown problem: ", "yellow"), problem))
    failed = sum(check["status"] == "failed" for check in found["checks"])
    console.print("\n[green]all checks passed[/]" if found["ok"] else f"\n[bold red]{failed} failed[/]")
