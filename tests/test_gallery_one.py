"""Five comparisons of the gallery run and train what the plain program cannot; so do all examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gallery import quick

pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("sklearn")

ROOT = Path(__file__).parent.parent


def test_quantization(tmp_path):
    module, score = quick("quantization", tmp_path)
    assert score[module.SLL] > 70 > 30 > score[module.PLAIN]
    theirs, ours = module.gradient(module.METHODS[module.LSQ]), module.gradient(module.METHODS[module.SLL])
    assert theirs.abs().max() > 1e-2 and (theirs - ours).abs().max() < 1e-5 * theirs.abs().max()


def test_binary_network(tmp_path):
    module, score = quick("binary_network", tmp_path)
    assert score[module.SLL] > 80 > 50 > score[module.PLAIN]


def test_spiking_network(tmp_path):
    pytest.importorskip("snntorch")
    module, score = quick("spiking_network", tmp_path)
    assert score[module.SLL] > score[module.PLAIN] + 10


def test_decision_tree(tmp_path):
    module, score = quick("decision_tree", tmp_path)
    board = "checkerboard"
    assert score[f"{module.SLL}, {board}"] > 70 > 65 > score[f"{module.GREEDY}, {board}"]
    assert score[f"{module.SLL}, {board}"] > score[f"{module.PLAIN}, {board}"] + 10


def test_vector_quantization(tmp_path):
    module, score = quick("vector_quantization", tmp_path)
    assert score[module.SLL] > 20 > 18 > score[module.PLAIN]  # decibels; at sll's learning rate the plain one gets 17


WON = {
    "thermostat": lambda before, after: after < before - 1.5,
    "binary_network": lambda right: right > 80,
    "controller": lambda before, after: after < before - 1,
    "decision_tree": lambda greedy, ours: ours > greedy + 20,
    "feature_selection": lambda plain, ours: ours > plain + 2,
    "knapsack": lambda regression, ours: ours > regression + 0.5,
    "metrics": lambda entropy, ours: ours > entropy + 3,
    "quantization": lambda plain, ours: ours > 80 > 30 > plain,
    "ranking": lambda plain, ours: ours > plain + 25,
    "spiking_network": lambda right: right > 75,
    "vector_quantization": lambda plain, ours: ours > plain + 6,
}
"""What the numbers have to say that an example prints after the colon."""


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_example(path, tmp_path):
    """It runs as it stands, draws its figure where it is run, and prints one line, which is what it says it wins."""
    if path.stem in ("metrics", "spiking_network"):
        pytest.importorskip("torchmetrics")
        pytest.importorskip("snntorch")
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr + done.stdout
    assert [made.name for made in tmp_path.iterdir()] == [f"{path.stem}.png"]
    if path.stem in WON:
        numbers = re.findall(r"\d+(?:\.\d+)?", done.stdout.partition(":")[2])
        assert WON[path.stem](*map(float, numbers)), done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 80
