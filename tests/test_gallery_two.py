"""Half of the comparisons of the gallery: each runs, draws its figure, and sll is clearly ahead of the plain program.

The plain programs have no gradient where it matters: a broken gradient of sll would leave it near them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gallery import quick

pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_metrics(tmp_path: Path) -> None:
    _, score = quick("metrics", tmp_path)
    assert score["F1: sll"] > score["F1: plain"] + 10
    assert score["IoU: sll"] > score["IoU: plain"] + 20
    assert score["IoU: sll"] > score["IoU: cross-entropy"] + 10


def test_ranking(tmp_path: Path) -> None:
    _, score = quick("ranking", tmp_path)
    assert score["sll"] > score["plain"] + 25
    assert score["sll"] > score["ListNet"] - 5


def test_feature_selection(tmp_path: Path) -> None:
    _, score = quick("feature_selection", tmp_path, seeds=3)
    assert score["sll, eps tuned"] > score["plain"] + 2


def test_controller(tmp_path: Path) -> None:
    _, cost = quick("controller", tmp_path)
    assert cost["sll"] < cost["plain gradient"] - 0.7
    assert cost["sll"] < cost["random search"] - 0.3


def test_knapsack(tmp_path: Path) -> None:
    _, score = quick("knapsack", tmp_path)
    assert score["sll"] > score["plain"] + 20
    assert score["sll, linear"] > score["plain"] + 30
    assert all(of < score["greedy, true values"] for method, of in score.items() if method != "greedy, true values")


def test_thermostat(tmp_path: Path) -> None:
    pytest.importorskip("cma")
    pytest.importorskip("scipy")
    _, cost = quick("thermostat", tmp_path)
    assert cost["sll, paths=4"] < cost["at the start"] - 1.5
    assert cost["sll, paths=4"] < min(cost["Nelder-Mead"], cost["CMA-ES"])
