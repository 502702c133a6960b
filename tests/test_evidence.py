"""The programs that `benchmarks/evidence` compares are the same programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = str(Path(__file__).parent.parent / "benchmarks" / "evidence")


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield
    for name in ("tasks", "further", "further_rewritten", "suite", "rewritten", "methods", "run", "report", "engines"):
        sys.modules.pop(name, None)


def test_rewritten_programs_are_the_plain_ones(evidence):
    import rewritten

    differences = rewritten.check()
    assert len(differences) == 18
    assert max(differences.values()) <= 1e-6, differences


def test_one_job_of_every_kind(evidence):
    import methods
    import run

    jobs = [
        run.Job("f1", methods.AUTO, None, 1e-2, 0, quick=True),
        run.Job("f1", "clipped straight-through", 1.0, 1e-2, 0, quick=True),
        run.Job("controller", "Nelder-Mead", None, 0.3, 0, quick=True),
    ]
    for job in jobs:
        result = run.train(job)
        assert "error" not in result, result
        assert result["validation"] == result["validation"] and result["seconds"] > 0


def test_a_failing_method_is_a_result(evidence):
    import run

    result = run.train(run.Job("f1", "sll(eps=-1.0)", None, 1e-2, 0, quick=True))
    assert "eps must be positive" in result["error"]


def test_a_lead_is_paired_and_behind_means_clearly(evidence):
    """Two standard errors of the paired differences, and 1 % of the score: either alone is not enough."""
    import methods
    import report

    def summary(ours, theirs):
        runs = {methods.AUTO: ours, "gumbel": theirs}
        result = {"diverged": False, "in_training": 0.0, "validation": 0.0, "seconds": 1.0}
        return report.summarise(
            {name: {"sign": [{**result, "test": score} for score in found]} for name, found in runs.items()}
        )

    clearly = summary([80.0, 85.0, 90.0], [83.0, 88.1, 92.9]).lead_of_auto("sign")
    assert clearly.other == "gumbel" and clearly.behind
    assert clearly.mean == pytest.approx(-3.0) and clearly.error == pytest.approx(0.1 / 3**0.5)
    assert not summary([80.0, 85.0, 90.0], [80.3, 85.31, 90.29]).lead_of_auto("sign").behind  # less than 1 %
    assert not summary([80.0, 85.0, 90.0], [95.0, 76.0, 93.0]).lead_of_auto("sign").behind  # cannot be told


def test_tasks_that_are_held_back_choose_no_configuration(evidence):
    import methods
    import run
    from suite import HELD_BACK

    method = methods.METHODS["clipped straight-through"]
    results = run.Results(run.HERE / "nowhere.jsonl")
    for task, good in (("sign", 0.3), (HELD_BACK[0], 1.0), (HELD_BACK[1], 1.0)):
        for job in run.tuning_jobs(task, method, quick=False):
            results.found[job] = {"validation": float(job.config == good)}
    choice = run.choose(method, ["sign", *HELD_BACK], results, quick=False)
    assert choice.config == 0.3
    assert set(choice.lrs) == {"sign", *HELD_BACK}
    assert run.choose(method, list(HELD_BACK), results, quick=False).config == 1.0  # nothing else is known


def test_the_oracle_takes_the_best_rate_and_none_that_failed(evidence):
    import run

    good, better, failed = (
        [{"test": 1.0}, {"test": 3.0}],
        [{"test": 2.5}, {"test": 2.0}],
        [{"test": 9.0}, {"error": ""}],
    )
    unclear = [{"test": 9.0}, {"test": float("nan")}]
    for groups in ([good, better, failed, unclear], [unclear, failed, better, good]):
        assert run.best(groups) is better


def test_versions_are_worse_beyond_two_standard_errors(evidence):
    import engines

    def runs(label, *scores, lr=0.1):
        known = {"task": "f1", "label": label, "lr": lr, "quick": False, "untrained": 1.0}
        return {seed: {**known, "test": score} for seed, score in enumerate(scores)}

    old = runs("old", 1.0, 2.0, 3.0, 4.0)
    assert engines.paired(old, runs("new", 0.0, 1.2, 2.1, 3.0), 4).verdict == engines.WORSE
    assert engines.paired(old, runs("new", 0.0, 3.1, 2.1, 4.5), 4).verdict == "not worse"
    assert engines.paired(old, runs("new", 2.0, 3.1, 4.1, 4.9), 4).verdict == "better"
    assert engines.paired(old, runs("new", 2.0, 3.1, 4.1), 4).verdict == engines.UNFINISHED
    assert engines.paired(old, runs("new", 2.0, 3.1, 4.1, float("nan")), 4).verdict == engines.WORSE
    with pytest.raises(SystemExit, match="not the same training"):
        engines.paired(old, runs("new", 1.0, lr=0.2), 4)
