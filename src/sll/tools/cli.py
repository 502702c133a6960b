"""The command line: ``sll demo``, ``compare``, ``explain``, ``ops`` and ``doctor``.

Results go to stdout, progress and messages to stderr. A command ends with 0, with 1 if something failed while it ran
(a program raised, an extra is not installed, a check did not pass) and with 2 if it was called in a wrong way.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import shutil
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

import sll

from .._ops import fused
from .._ops.callsite import is_internal
from .._rules.index import LEFT_ALONE, SOURCES

FAILED, USAGE = 1, 2

EPILOG = "Exit codes: 0 done, 1 something failed while it ran, 2 called in a wrong way."

app = typer.Typer(
    add_completion=False,  # it would import torch at every press of the tab key
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.")]
Quick = Annotated[bool, typer.Option("--quick", help="A few seconds: only to see that everything runs.")]


def _stop(code: int, message: str) -> NoReturn:
    line = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
    raise typer.Exit(code)


def _print_json(found: dict[str, Any]) -> None:
    typer.echo(json.dumps(found, indent=2, allow_nan=False))


@contextlib.contextmanager
def _working(what: str) -> Iterator[None]:
    """A spinner and a clock on stderr, if that is a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sll {sll.__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def sll_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Derivatives for discrete PyTorch programs that nobody has to edit.

    `round`, `sign`, `x > 0` or `argmax` have no useful gradient. Inside
    `with sll.linearize():` each of their jumps is a straight ramp over a small band around its decision
    boundary; outside the band, and after the region, the program is the original one.

    Start here:

    ```sh
    sll doctor                       # does it work on this machine?
    sll compare -o comparison.png    # what does it do to a function?
    sll explain my_module:my_function --input "randn(8, 3)"    # where do gradients come from, where do they end?
    sll demo                         # does it train?
    sll COMMAND --help               # more about each, with examples
    ```
    """


# --- demo and compare ------------------------------------------------------------------------------------------------


def _writable_figure(option: str, path: Path) -> Path:
    """`path`, if a figure can be saved there: better asked before the work than after it."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        _stop(FAILED, f"{option} draws with matplotlib, which is not installed: pip install matplotlib")
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().lstrip(".") not in known:
        _stop(USAGE, f"{option} {path}: the name must end in the format of a figure, such as .png, .svg or .pdf")
    if path.is_dir():
        _stop(USAGE, f"{option} {path} is a directory: name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _stop(USAGE, f"{option} {path}: its directory cannot be made ({error.strerror}); choose another one")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        _stop(USAGE, f"{option} {path} cannot be written: choose another place")
    return path


def _save(figure: Any, option: str, path: Path) -> None:
    try:
        figure.savefig(path)
    except OSError as error:
        _stop(FAILED, f"{option} {path} cannot be written: {error.strerror or error}")


@app.command(epilog=EPILOG)
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the training curves go.")] = Path(
        "out/demo.png"
    ),
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Train three discrete programs on real data, with and without sll.

    A network with sign activations and a 2-bit network on scikit-learn's digits, and a threshold classifier that
    maximises torchmetrics' F1 score itself: as they are, rewritten by hand with a straight-through estimator, and as
    they are inside a region. All scores are those of the deployed hard program. A minute or two on two cores;
    nothing is downloaded.

    Needs `pip install rich typer matplotlib scikit-learn torchmetrics`.

    Examples:

    ```sh
    sll demo
    sll demo --quick -o curves.svg
    sll demo --json > scores.json
    ```

    JSON keys: seeds, quick, tasks (name, score, eps, eps_reason, methods (name, rewritten, test: one score per seed in
    percent, validation: one list per seed, one score per epoch)), figure, seconds.
    """
    try:
        from . import demo as program
    except ImportError as error:
        _stop(FAILED, str(error))
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread, and lose a lot on a busy machine
    program.main(quick, _writable_figure("--output", output), as_json)


@app.command(epilog=EPILOG)
def compare(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the figure goes.")] = Path("comparison.png"),
    quick: Quick = False,
) -> None:
    """Draw what linearization does: values, gradients, the band, and a training run.

    Six panels: sign and its gradient beside the hard function and tanh, round at the half-integers, a zoom into the
    band, the same function for several eps, and the deployed score during training with no gradient, a straight-through
    estimator, a sigmoid surrogate and sll. Everything is computed, nothing is drawn from formulas.

    Needs `pip install matplotlib`.

    Examples:

    ```sh
    sll compare
    sll compare --quick -o comparison.pdf
    ```

    """
    _writable_figure("--output", output)
    with _working("computing and training"):
        figure = sll.plot.compare(quick=quick)
    _save(figure, "--output", output)
    Console(highlight=False).print(f"figure: {output}", soft_wrap=True)


# --- explain ---------------------------------------------------------------------------------------------------------

_MAKERS: dict[str, Callable[..., Tensor]] = {
    name: getattr(torch, name) for name in ("randn", "rand", "randint", "linspace", "arange", "zeros", "ones", "full")
}
_DTYPES = {
    name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")
}
GRAMMAR = (
    "randn(8, 3), rand(…), randint(0, 9, (4,)), linspace(-1, 1, 50), arange(10), zeros(…), ones(…), full((2, 3), 0.5), "
    "each with dtype=float64 if need be; [[1.0, 2.0]]; 0.5; True; None; a word; file.pt; file.npy"
)


class _BadInput(ValueError):
    """An input specification that says nothing we can make."""


def read_input(text: str) -> Any:
    """The value that an input specification describes. Nothing is evaluated: names outside the grammar are refused.

    Example:
        >>> read_input("[[1.0, -2.0]]"), read_input("linspace(-1, 1, 3)"), read_input("mean")
        (tensor([[ 1., -2.]]), tensor([-1.,  0.,  1.]), 'mean')
    """
    text = text.strip()
    if text.lower().endswith((".pt", ".pth", ".npy")):
        return _loaded(Path(text))
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _BadInput(f"is not one of {GRAMMAR}") from None
    if isinstance(node, ast.Call):
        return _made(node)
    if isinstance(node, ast.Name):
        if node.id in _MAKERS:
            raise _BadInput(f"lacks its arguments, as in {node.id}(…)")
        return node.id
    value = _literal(node)
    if not isinstance(value, (list, tuple)):
        return value
    try:
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _BadInput(f"is not a rectangular list of numbers ({error})") from None


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        raise _BadInput(f"holds {ast.unparse(node)!r}; known are {GRAMMAR}") from None
    if not isinstance(value, (bool, int, float, str, list, tuple, type(None))):
        raise _BadInput(f"holds a {type(value).__name__}; known are {GRAMMAR}")
    return value


def _made(node: ast.Call) -> Tensor:
    name = ast.unparse(node.func)
    if name not in _MAKERS:
        raise _BadInput(f"calls {name}; known are {', '.join(_MAKERS)}")
    args = [_literal(arg) for arg in node.args]
    kwargs: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg == "dtype" and isinstance(keyword.value, ast.Name):
            if keyword.value.id not in _DTYPES:
                raise _BadInput(f"has dtype={keyword.value.id}; known are {', '.join(_DTYPES)}")
            kwargs["dtype"] = _DTYPES[keyword.value.id]
        elif keyword.arg is None:
            raise _BadInput("has a ** that is not allowed here")
        else:
            kwargs[keyword.arg] = _literal(keyword.value)
    try:
        return _MAKERS[name](*args, **kwargs)
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise _BadInput(f"is refused by torch.{name}: {str(error).splitlines()[0]}") from None


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise _BadInput(f"names a file that is not there (looked in {path.parent.resolve()})")
    if path.suffix.lower() == ".npy":
        try:
            import numpy
        except ImportError:
            raise _BadInput("needs numpy, which is not installed: pip install numpy") from None
        try:
            return torch.from_numpy(numpy.load(path, allow_pickle=False))
        except (ValueError, TypeError, OSError, EOFError) as error:
            raise _BadInput(f"cannot be read as an array of numbers: {error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle raises what it likes
        reason = str(error).partition("\n")[0]
        raise _BadInput(f"cannot be read with torch.load(weights_only=True): {reason}") from None


def _read_inputs(texts: list[str]) -> tuple[list[Any], dict[str, Any]]:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name = re.match(r"([A-Za-z_]\w*)=(?!=)", text)
        try:
            value = read_input(text[name.end() :] if name else text)
        except _BadInput as error:
            _stop(USAGE, f"--input {text!r} {error}")
        if name is None:
            args.append(value)
        elif name[1] in kwargs:
            _stop(USAGE, f"--input {text!r}: {name[1]} is given twice")
        else:
            kwargs[name[1]] = value
    return args, kwargs


def _imported(name: str) -> ModuleType:
    """The module `name`, or the file of that name as a module."""
    if not name.endswith(".py"):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m` does
        return importlib.import_module(name)
    path = Path(name).resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as `python file.py` does
    module_name = path.stem if path.stem not in sys.modules else f"{path.stem}_file"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _find(target: str, with_traceback: bool) -> Callable[..., Any]:
    """The function, module or object that ``module:name`` or ``file.py:name`` means."""
    where, _, what = target.rpartition(":")
    if not where or not what:
        _stop(USAGE, f"TARGET must be module:function or path/to/file.py:function, got {target!r}")
    if where.endswith(".py") and not Path(where).is_file():
        _stop(USAGE, f"TARGET {target!r}: there is no file {where}; the path starts in {os.getcwd()}")
    try:
        found: Any = _imported(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(error.name + ".")):
            _stop(
                USAGE,
                f"TARGET {target!r}: there is no module {error.name}. Run sll in the directory it is in, install it, "
                f"or name its file: path/to/{error.name.rpartition('.')[2]}.py:{what}",
            )
        _failed(f"importing {where}", error, with_traceback)
    except (Exception, SystemExit) as error:
        _failed(f"importing {where}", error, with_traceback)
    for name in what.split("."):
        if not hasattr(found, name):
            import difflib

            close = difflib.get_close_matches(name, (n for n in dir(found) if not n.startswith("_")), 3)
            remedy = f"; close to it: {', '.join(close)}" if close else ""
            _stop(USAGE, f"TARGET {target!r}: {getattr(found, '__name__', where)} has no {name!r}{remedy}")
        found = getattr(found, name)
    if inspect.isclass(found):
        found = _instance(target, found, with_traceback)
    if not callable(found):
        kind = type(found).__name__
        _stop(USAGE, f"TARGET {target!r} cannot be called, it is of type {kind}: name a function or a module")
    return found  # type: ignore[no-any-return]


def _instance(target: str, made_by: type[Any], with_traceback: bool) -> Any:
    try:
        inspect.signature(made_by).bind()
    except TypeError as error:
        _stop(
            USAGE,
            f"TARGET {target!r} is a class that cannot be made without arguments ({error}). Make an instance in the "
            f"module, model = {made_by.__name__}(…), and name that",
        )
    except ValueError:
        pass  # no signature is known
    try:
        return made_by()
    except Exception as error:
        _failed(f"{made_by.__name__}()", error, with_traceback)


_INSTALLED = tuple(
    path + os.sep for path in {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def _users_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of the program, without ours and torch's, up to its last line that is not in an installed package."""
    frames = [f for f in traceback.extract_tb(trace) if not is_internal(f.filename) and f.filename[:1] != "<"]
    own = [i for i, frame in enumerate(frames) if not frame.filename.startswith(_INSTALLED)]
    return frames[: own[-1] + 1] if own else frames


def _failed(what: str, error: BaseException, with_traceback: bool) -> NoReturn:
    """The user's program raised: say what and at which of its lines."""
    frames = _users_frames(error.__traceback__)
    said = "".join(traceback.format_exception_only(type(error), error)).strip()
    if with_traceback:
        listing = "".join(traceback.format_list(frames))
        typer.echo(f"Traceback (most recent call last):\n{listing}{said}", err=True)
        raise typer.Exit(FAILED)
    at = ""
    if isinstance(error, SyntaxError):
        said, at = f"SyntaxError: {error.msg}", f" at {error.filename}:{error.lineno}"
    elif frames:
        at = f" at {frames[-1].filename}:{frames[-1].lineno}"
    _stop(FAILED, f"{what} raised{at}\n{said}\nWith --traceback you see the lines that led there.")


def _check_call(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> None:
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return  # a function of torch itself
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(called, "__name__", type(called).__name__)
        _stop(
            USAGE,
            f"the inputs do not fit {name}{signature}: {error}. Give one --input for each positional argument, "
            "and --input NAME=… for those with a name",
        )


def _with_a_line(function: Callable[..., Any], target: str) -> Callable[..., Any]:
    """`function`, called from a line that reports can name: functions and modules of torch have none of their own."""
    if isinstance(function, nn.Module):
        code = getattr(type(function).forward, "__code__", None)
    else:
        code = getattr(inspect.unwrap(function), "__code__", None)
    if code is not None and not is_internal(code.co_filename):
        return function

    call = lambda *args, **kwargs: function(*args, **kwargs)
    call.__code__ = call.__code__.replace(co_filename=f"<{target}>", co_firstlineno=1)
    return call


def _region(eps: str | None, forward: str | None) -> tuple[Any, Any]:
    """`eps` and `forward` as `sll.linearize` wants them, and has accepted them."""
    width: Any = eps
    if eps is not None:
        with contextlib.suppress(ValueError):
            width = float(eps)
    try:
        sll.linearize(width, forward=forward)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        _stop(USAGE, f"--{error}")
    return width, forward


@app.command(epilog=EPILOG)
def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="module:function or path/to/file.py:function. Instances of nn.Module, their methods and classes that "
            "are made without arguments work too.",
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="SPEC", help="Once per positional argument; NAME=SPEC for one with a name."
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help='"auto", or the half-width of the band in the units of each op\'s input; the default is that of '
            "sll.linearize."
        ),
    ] = None,
    forward: Annotated[
        str | None, typer.Option(help='"linear", "hard" or "straight-through"; the default is that of sll.linearize.')
    ] = None,
    seed: Annotated[int, typer.Option(help="For the inputs and the parameters.")] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the report, too: .png, .svg or .pdf.")
    ] = None,
    with_traceback: Annotated[
        bool, typer.Option("--traceback", help="If the program raises, print the lines that led there.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Show the figures of each call site, too.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Hold the gradient against the hard program, too: is it right?")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where the gradients of a program come from, and where they end.

    Runs the function forward and backward, once as it is and once in a region, and lists each line that decides
    something: how many values are in the band, which gradient arrived, which was passed on, and what stands in the way.

    SPEC is one of randn(8, 3), rand(…), randint(0, 9, (4,)), linspace(-1, 1, 50), arange(10), zeros(…), ones(…),
    full((2, 3), 0.5), each with dtype=float64 if need be; [[1.0, 2.0]]; a number; True; None; a word; file.pt;
    file.npy. Gradients are shown for inputs of floating-point numbers: [1, 2] is a tensor of integers, [1.0, 2.0] is
    not.

    Examples:

    ```sh
    sll explain torch:round --input "linspace(-2, 2, 41)" --eps 0.1
    sll explain sll.tools.demo:TwoBitNet --input "rand(8, 64)" --eps 0.5 --table
    sll explain model.py:Net --input "randn(8, 3)" --plot report.png
    sll explain model.py:Net --input "randn(8, 3)" --check
    sll explain my_package.losses:f1 -i scores.pt -i "randint(0, 2, (100,))" -i reduction=mean --json
    ```

    JSON keys: target, seed, region, inputs (name, shape, hard, linearized: norms of gradients without and with the
    region), refused (what PyTorch said where it cannot differentiate the program without one), inner (whether the
    program enters regions of its own), sections, advice, report (as from Report.to_dict()), check (with --check, as
    from Check.to_dict(): region, verdict, arguments, lines, notes, report).
    """
    width, mode = _region(eps, forward)
    if plot is not None:
        _writable_figure("--plot", plot)
    torch.manual_seed(seed)
    args, kwargs = _read_inputs(inputs or [])
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():  # what the program prints
        function = _find(target, with_traceback)
        _check_call(function, args, kwargs)
        function = _with_a_line(function, target)
        try:
            ours = {name: kwargs.pop(name) for name in ("eps", "forward", "paths", "check") if name in kwargs}
            program = partial(function, **ours) if ours else function
            with _working("checking") if check else contextlib.nullcontext():
                explanation = sll.explain(program, *args, eps=width, forward=mode, check=check, **kwargs)
        except (Exception, SystemExit) as error:
            _failed(target, error, with_traceback)
    if plot is not None:
        _save(explanation.report.plot(), "--plot", plot)
    if as_json:
        _print_json({"target": target, "seed": seed, **explanation.to_dict()})
        return
    console = Console(highlight=False)
    console.print(explanation, soft_wrap=True)
    if table:
        if not console.is_terminal:
            console.width = max(console.width, 110)
        console.print(explanation.report)
    if plot is not None:
        Console(stderr=True, highlight=False).print(f"figure: {plot}", soft_wrap=True)


# --- ops -------------------------------------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def ops(as_json: AsJson = False) -> None:
    """List what is linearized, and what is left alone for which reason.

    The names are those that `only=`, `exclude=` and `eps={…}` of sll.linearize take.

    JSON keys: linearized (name, boundaries), left_alone (name, reason).
    """
    if as_json:
        linearized = [{"name": name, "boundaries": SOURCES[name]} for name in sorted(SOURCES)]
        left = [{"name": name, "reason": LEFT_ALONE[name]} for name in sorted(LEFT_ALONE)]
        _print_json({"linearized": linearized, "left_alone": left})
        return
    table = Table(title="Linearized")
    table.add_column("name", no_wrap=True)
    table.add_column("decision boundaries")
    for name in sorted(SOURCES):
        table.add_row(name, Text(SOURCES[name].replace("`", "")))
    console = Console(highlight=False)
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for name, reason in LEFT_ALONE.items():
        reasons.setdefault(reason, []).append(name)
    table = Table(title="Left alone", show_lines=True)
    table.add_column("functions", ratio=1)
    table.add_column("why", ratio=1)
    for reason, names in reasons.items():
        table.add_row(" ".join(sorted(names)), Text(reason))
    console.print(table)


# --- doctor ----------------------------------------------------------------------------------------------------------

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


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


_COMPILES = _release(torch.__version__) >= (2, 10)


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
    recent = _release(torch.__version__) >= (2, 6)
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
    problems = []
    if not _COMPILES:
        problems.append(
            f"torch {torch.__version__} cannot compile a region: run it uncompiled, or upgrade to PyTorch 2.10 or later"
        )
    return problems


@app.command(epilog=EPILOG)
def doctor(
    compile_too: Annotated[
        bool, typer.Option("--compile", help="Check the default backend of torch.compile, too: up to a minute.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that sll works on this machine, and show what a bug report should say.

    Lists versions, devices, which accelerations there are, torch function modes of other libraries and known problems,
    and runs checks on each device: a gradient against the number it must be, the same compiled, hard values, and that
    two runs are equal. Ends with 1 if a check fails. An acceleration that is missing is no failure.

    Examples:

    ```sh
    sll doctor
    sll doctor --compile --json
    ```

    JSON keys: ok, versions (package: version or null), devices (device, detail), accelerations (name, available,
    detail), checks (name, device, status: passed, failed or skipped, detail, seconds), function_modes, known_problems.
    """
    versions = {"sll": sll.__version__, "torch": torch.__version__, "python": platform.python_version()}
    versions.update({package: _version(package) for package in _OPTIONAL})  # type: ignore[misc]
    devices = _devices()
    with _working("checking"):
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
        _print_json(found)
    else:
        _show_examination(found)
    if not found["ok"]:
        raise typer.Exit(FAILED)


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
