"""`sll explain`: finds the program that its target means, calls it, and shows what `sll.explain` says."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

import torch
import typer
from rich.console import Console
from torch import nn

import sll

from .._ops.callsite import is_internal
from .._ops.statements import in_package
from .console import FAILED, USAGE, print_json, save, stop, working, writable_figure
from .inputs import read_inputs


def explain(
    target: str,
    inputs: list[str] | None,
    eps: str | None,
    forward: str | None,
    options: dict[str, Any],
    seed: int,
    plot: Path | None,
    with_traceback: bool,
    table: bool,
    as_json: bool,
) -> None:
    width, mode = _region(eps, forward)
    if plot is not None:
        writable_figure("--plot", plot)
    torch.manual_seed(seed)
    args, kwargs = read_inputs(inputs or [])
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():  # what the program prints
        function = _find(target, with_traceback)
        _check_call(function, args, kwargs)
        function = _with_a_line(function, target)
        try:
            ours = {name: kwargs.pop(name) for name in ("eps", "forward", *options) if name in kwargs}
            program = partial(function, **ours) if ours else function
            with working("checking") if options["check"] else contextlib.nullcontext():
                explanation = sll.explain(program, *args, eps=width, forward=mode, **options, **kwargs)
        except (Exception, SystemExit) as error:
            _failed(target, error, with_traceback)
    if plot is not None:
        save(explanation.report.plot(), "--plot", plot)
    if as_json:
        print_json({"target": target, "seed": seed, **explanation.to_dict()})
        return
    console = Console(highlight=False)
    console.print(explanation, soft_wrap=True)
    if table:
        if not console.is_terminal:
            console.width = max(console.width, 110)
        console.print(explanation.report)
    if plot is not None:
        Console(stderr=True, highlight=False).print(f"figure: {plot}", soft_wrap=True)


def _imported(name: str) -> ModuleType:
    """The module `name`, or the file of that name as a module."""
    path = Path(name).resolve()
    start = str(path.parent) if name.endswith(".py") else os.getcwd()
    if start not in sys.path:
        sys.path.insert(0, start)  # as `python file.py` and `python -m` do
    if not name.endswith(".py"):
        return importlib.import_module(name)
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
    try:
        found: Any = _imported(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(error.name + ".")):
            stop(
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
            stop(USAGE, f"TARGET {target!r}: {getattr(found, '__name__', where)} has no {name!r}{remedy}")
        found = getattr(found, name)
    if inspect.isclass(found):
        found = _instance(target, found, with_traceback)
    if not callable(found):
        kind = type(found).__name__
        stop(USAGE, f"TARGET {target!r} cannot be called, it is of type {kind}: name a function or a module")
    return found  # type: ignore[no-any-return]


def _instance(target: str, made_by: type[Any], with_traceback: bool) -> Any:
    try:
        inspect.signature(made_by).bind()
    except TypeError as error:
        stop(
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


def _users_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The frames of the program, without ours and torch's, up to its last line that is not in an installed package."""
    frames = [f for f in traceback.extract_tb(trace) if not is_internal(f.filename) and f.filename[:1] != "<"]
    own = [i for i, frame in enumerate(frames) if not in_package(frame.filename)]
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
    stop(FAILED, f"{what} raised{at}\n{said}\nWith --traceback you see the lines that led there.")


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
        stop(
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
        stop(USAGE, f"--{error}")
    return width, forward
