"""What the commands share: how they end, what they print, and where a figure may go."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

FAILED, USAGE = 1, 2


def stop(code: int, message: str) -> NoReturn:
    line = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
    raise typer.Exit(code)


def print_json(found: dict[str, Any]) -> None:
    typer.echo(json.dumps(found, indent=2, allow_nan=False))


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner and a clock on stderr, if that is a terminal."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


def writable_figure(option: str, path: Path) -> Path:
    """`path`, if a figure can be saved there: better asked before the work than after it."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        stop(FAILED, f"{option} draws with matplotlib, which is not installed: pip install matplotlib")
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().lstrip(".") not in known:
        stop(USAGE, f"{option} {path}: the name must end in the format of a figure, such as .png, .svg or .pdf")
    if path.is_dir():
        stop(USAGE, f"{option} {path} is a directory: name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        stop(USAGE, f"{option} {path}: its directory cannot be made ({error.strerror}); choose another one")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        stop(USAGE, f"{option} {path} cannot be written: choose another place")
    return path


def save(figure: Any, option: str, path: Path) -> None:
    try:
        figure.savefig(path)
    except OSError as error:
        stop(FAILED, f"{option} {path} cannot be written: {error.strerror or error}")
