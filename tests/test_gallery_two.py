"""Half of the comparisons of the gallery: each runs, draws its figure, and sll is clearly ahead of the plain program.

The plain programs have no gradient where it matters: a broken gradient of sll would leave it near them.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")

EXAMPLES = Path(__file__).parent.parent / "benchmarks" / "gallery"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def means_of_quick_run(name: str, folder: Path) -> dict[str, float]:
    """Mean score per method; the figure is a PNG that is not empty."""
    spec = importlib.util.spec_from_file_location(f"gallery_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where classes of the script look up their annotations
    spec.loader.exec_module(module)
    figure = folder / "deeper" / f"{name}.png"
    scores = module.main(quick=True, figure=figure)
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and figure.stat().st_size > 10_000
    assert len({len(of) for of in scores.values()}) == 1 and all(len(of) >= 2 for of in scores.values())
    return {method: statistics.mean(of) for method, of in scores.items()}


def test_metrics(tmp_path: Path) -> None:
    score = means_of_quick_run("metrics", tmp_path)
    assert score["F1: sll"] > score["F1: plain"] + 10
    assert score["IoU: sll"] > score["IoU: plain"] + 20
    assert score["IoU: sll"] > score["IoU: cross-entropy"] + 10


def test_ranking(tmp_path: Path) -> None:
    score = means_of_quick_run("ranking", tmp_path)
    assert score["sll"] > score["plain"] + 25
    assert score["sll"] > score["ListNet"] - 5


def test_feature_selection(tmp_path: Path) -> None:
    score = means_of_quick_run("feature_selection", tmp_path)
    assert score["sll, eps tuned"] > score["plain"] + 2


def test_controller(tmp_path: Path) -> None:
    cost = means_of_quick_run("controller", tmp_path)
    assert cost["sll"] < cost["plain gradient"] - 0.7
    assert cost["sll"] < cost["random search"] - 0.3


def test_knapsack(tmp_path: Path) -> None:
    score = means_of_quick_run("knapsack", tmp_path)
    assert score["sll"] > score["plain"] + 20
    assert score["sll, linear"] > score["plain"] + 30
    assert all(of < score["greedy, true values"] for method, of in score.items() if method != "greedy, true values")


def test_thermostat(tmp_path: Path) -> None:
    pytest.importorskip("cma")
    pytest.importorskip("scipy")
    cost = means_of_quick_run("thermostat", tmp_path)
    assert cost["sll, paths=4"] < cost["at the start"] - 1.5
    assert cost["sll, paths=4"] < min(cost["Nelder-Mead"], cost["CMA-ES"])
