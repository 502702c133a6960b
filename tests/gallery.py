"""The comparisons of `benchmarks/gallery`, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from statistics import mean
from types import ModuleType

FOLDER = Path(__file__).parent.parent / "benchmarks" / "gallery"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gallery_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where classes of the script look up their annotations
    sys.path.insert(0, str(FOLDER))  # as for a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def quick(name: str, folder: Path, seeds: int = 2) -> tuple[ModuleType, dict[str, float]]:
    """The script, and its mean scores; its figure is a PNG that is not empty."""
    module, figure = script(name), folder / "new" / f"{name}.png"
    scores = module.main(quick=True, figure=figure)
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 10_000
    assert all(len(found) == seeds for found in scores.values())
    return module, {name: mean(found) for name, found in scores.items()}
