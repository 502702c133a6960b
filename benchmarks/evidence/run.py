"""Training, the protocol, and the cache of results.

Every method gets nine pairs of configuration and learning rate per task, three tuning seeds each, scored on validation
by the *deployed* plain program. One configuration per method is kept for all tasks, the one with the best mean rank;
the learning rate is chosen per task. Then eight other seeds, scored on test. A seed stands for initial weights, the
order of batches and the split (of the thermostat: the days), the same for all methods: with one split for all seeds,
which of two equal methods looks better would be decided by the few dozen rows of one test split.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import rewritten
import torch
from methods import Config, Method, Search, find
from rich.progress import Progress, TimeElapsedColumn
from scipy.stats import rankdata
from suite import HELD_BACK, TASKS
from tasks import Data, Task
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

HERE = Path(__file__).parent
PUBLISHED = HERE / "published"
TUNING = (100, 101, 102)
FINAL = tuple(range(8))

Result = dict[str, Any]


class Job(NamedTuple):
    task: str
    method: str
    config: Config
    lr: float
    seed: int
    quick: bool = False


def rates(task: Task, method: Method) -> Sequence[float]:
    """Three for a method with three configurations, else nine over a range that is wider at both ends."""
    if method.rates is not None:
        return method.rates
    if len(method.configs) > 1:
        return task.lrs
    low, high = math.log(task.lrs[0] / 2), math.log(task.lrs[-1] * 2)
    return [float(f"{math.exp(low + (high - low) * i / 8):.3g}") for i in range(9)]


# --- one job ---


def deployed_score(task: Task, model: nn.Module, data: Data) -> float:
    """Of the plain hard program with the parameters of `model`, outside any region."""
    plain = task.program.model()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        return task.score(plain, data)


def train(job: Job) -> Result:
    """What came of one training, or the error that ended it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            result = _train(job)
        except Exception as error:  # a method that fails on a task is a result
            result = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    if caught:
        result["warnings"] = sorted({str(warning.message).splitlines()[0][:200] for warning in caught})
    return result


def _train(job: Job) -> Result:
    task, method = TASKS[job.task], find(job.method)
    epochs = max(1, task.epochs // 10) if job.quick else task.epochs
    splits = task.data(job.seed)
    program = task.program if method.ops is None else rewritten.program(job.task, method.ops(job.config, job.seed))
    search = None if method.search is None else method.search()
    enter = nullcontext if method.region is None else method.region(job.config)

    torch.manual_seed(job.seed)
    model = program.model()
    untrained = deployed_score(task, model, splits.validation)
    order = torch.Generator().manual_seed(job.seed)
    batches = [
        splits.train.rows(rows)
        for _ in range(epochs)
        for rows in torch.randperm(len(splits.train.y), generator=order).split(task.batch)
    ]

    start = time.perf_counter()
    if search is not None:
        _search(job, search, program.loss, model, splits.train, len(batches))
        finite = True
    else:
        finite = _descend(program.loss, model, enter, batches, job.lr)
    seconds = time.perf_counter() - start

    with enter():
        output = program.output(model, splits.validation)
    validation = deployed_score(task, model, splits.validation)
    return {
        "validation": validation,
        "test": deployed_score(task, model, splits.test),
        "in_training": task.measure(output.detach(), splits.validation),
        "untrained": untrained,
        "diverged": not finite or not validation > untrained,
        "seconds": seconds,
    }


def _descend(loss_of: Any, model: nn.Module, enter: Any, batches: list[Data], lr: float) -> bool:
    """Adam with cosine decay. A step that is not finite ends it, with the parameters from before that step."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for batch in batches:
        with enter():
            loss = loss_of(model, batch)
        optimizer.zero_grad()
        if loss.requires_grad:  # else there is no path from the loss to any parameter
            loss.backward()
        gradients = [p.grad.sum() for p in model.parameters() if p.grad is not None]
        if not torch.stack([loss.detach(), *gradients]).isfinite().all():
            return False
        optimizer.step()
        schedule.step()
    return True


def _search(job: Job, search: Search, loss_of: Any, model: nn.Module, data: Data, calls: int) -> None:
    """As many calls of the program as others get steps; the learning rate is the size of the first step."""

    def place(point: Any) -> None:
        vector_to_parameters(torch.as_tensor(point, dtype=torch.float32), model.parameters())

    def objective(point: Any) -> float:
        place(point)
        with torch.no_grad():
            return loss_of(model, data).item()

    start = parameters_to_vector(model.parameters()).detach().double().numpy()
    place(search(objective, start, calls, job.lr, job.seed))


# --- many jobs ---


class Results:
    """Jobs and their results: one JSON object per line, appended as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[Job, Result] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                record = json.loads(line)
                self.found[_job(record)] = record

    def __contains__(self, job: Job) -> bool:
        return job in self.found

    def __getitem__(self, job: Job) -> Result:
        return self.found[job]

    def add(self, job: Job, result: Result) -> None:
        self.found[job] = {**job._asdict(), **result}
        with self.path.open("a") as file:
            file.write(json.dumps(self.found[job]) + "\n")

    def forget(self, names: Sequence[str], methods: Sequence[str], quick: bool) -> None:
        self.found = {
            job: record
            for job, record in self.found.items()
            if job.task not in names or job.method not in methods or job.quick != quick
        }
        self.path.write_text("".join(json.dumps(record) + "\n" for record in self.found.values()))


def _job(record: Result) -> Job:
    return Job(*(record[field] for field in Job._fields))


def install_published() -> None:
    """The published package, into a folder of its own that only the processes of its own look into."""
    if not (PUBLISHED / "sll").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PUBLISHED)]
        subprocess.run([*command, "sll-core==0.1.5"], check=True)


def _start_worker(first: str | None) -> None:
    torch.set_num_threads(1)
    if first is not None:
        sys.path.insert(0, first)
    x = torch.ones(1, requires_grad=True)  # the first step imports a lot: not on the clock of the first job
    x.sum().backward()
    torch.optim.Adam([x]).step()


def run_jobs(jobs: Iterable[Job], results: Results, workers: int, progress: Progress, title: str) -> None:
    todo = [job for job in dict.fromkeys(jobs) if job not in results]
    bar = progress.add_task(title, total=len(todo))
    for published in (False, True):
        group = [job for job in todo if find(job.method).published == published]
        if not group:
            continue
        if published:
            install_published()
        with ProcessPoolExecutor(
            min(workers, len(group)),
            multiprocessing.get_context("spawn"),
            _start_worker,
            (str(PUBLISHED) if published else None,),
        ) as pool:
            futures = {pool.submit(train, job): job for job in group}
            try:
                for future in as_completed(futures):
                    results.add(futures[future], future.result())
                    progress.advance(bar)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


# --- the protocol ---


class Choice(NamedTuple):
    config: Config
    lrs: dict[str, float]
    """Of each task."""


def tuning_jobs(task: str, method: Method, quick: bool) -> list[Job]:
    configs, lrs, seeds = method.configs, rates(TASKS[task], method), TUNING
    if quick:
        configs, lrs, seeds = configs[:1], lrs[len(lrs) // 2 :][:1], seeds[:1]
    return [Job(task, method.name, config, lr, seed, quick) for config in configs for lr in lrs for seed in seeds]


def score_of(result: Result, split: str) -> float:
    """-inf for a run that failed."""
    score: float = result.get(split, -math.inf)
    return -math.inf if math.isnan(score) else score


def tuning_scores(task: str, method: Method, results: Results, quick: bool) -> dict[tuple[Config, float], float]:
    """Of each pair of configuration and learning rate the mean of the tuning seeds, -inf if one failed."""
    pairs: dict[tuple[Config, float], list[float]] = {}
    for job in tuning_jobs(task, method, quick):
        pairs.setdefault((job.config, job.lr), []).append(score_of(results[job], "validation"))
    return {pair: statistics.mean(found) for pair, found in pairs.items()}


def choose(method: Method, names: Sequence[str], results: Results, quick: bool) -> Choice:
    """By the tuning seeds. A pair that failed loses to all others. Tasks that are held back have no say in the
    configuration, but for learning rates of their own."""
    scores: dict[str, dict[Config, dict[float, float]]] = {}
    for name in names:
        for (config, lr), score in tuning_scores(name, method, results, quick).items():
            scores.setdefault(name, {}).setdefault(config, {})[lr] = score
    configs = list(next(iter(scores.values())))
    say = [name for name in names if name not in HELD_BACK] or names
    ranks = [rankdata([-max(by_lr.values()) for by_lr in scores[name].values()]) for name in say]
    mean = [statistics.mean(rank[i] for rank in ranks) for i in range(len(configs))]
    config = configs[mean.index(min(mean))]  # of equal ones the first, which is the method's default
    return Choice(config, {name: max(scores[name][config], key=scores[name][config].__getitem__) for name in names})


def run(
    names: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    results: Results,
    workers: int,
    quick: bool,
    oracle: bool = False,
) -> dict[str, dict[str, list[Result]]]:
    """Everything that is not in `results` yet; returns method -> task -> one result per seed.

    `oracle`: not at the learning rates that tuning chose, but at those that do best on the final seeds, on test.
    """
    found = [find(name) for name in methods]
    pairs = {method.name: [name for name in names if method.applies(name)] for method in found}
    found = [method for method in found if pairs[method.name]]
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        jobs = [job for method in found for name in pairs[method.name] for job in tuning_jobs(name, method, quick)]
        run_jobs(jobs, results, workers, progress, "tuning")
        final: dict[str, dict[str, list[list[Job]]]] = {}
        for method in found:
            # the configuration is one for all tasks: those that were tuned before have a say, too
            known = [
                name
                for name in TASKS
                if method.applies(name) and all(job in results for job in tuning_jobs(name, method, quick))
            ]
            choice = choose(method, known, results, quick)
            final[method.name] = {
                name: [
                    [Job(name, method.name, choice.config, lr, seed, quick) for seed in seeds]
                    for lr in (rates(TASKS[name], method) if oracle else [choice.lrs[name]])
                ]
                for name in pairs[method.name]
            }
        jobs = [job for by_task in final.values() for groups in by_task.values() for group in groups for job in group]
        run_jobs(jobs, results, workers, progress, "final")
    return {
        method: {name: best([[results[job] for job in group] for group in groups]) for name, groups in by_task.items()}
        for method, by_task in final.items()
    }


def best(groups: Sequence[list[Result]]) -> list[Result]:
    """Of the learning rates: the one with the best mean on test. A run that failed loses to all others."""
    return max(groups, key=lambda group: statistics.mean(score_of(result, "test") for result in group))
