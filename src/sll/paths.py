"""Python control flow: a function runs again for what Python asks of its decisions, ``linearize(..., paths=N)``.

The function runs once as it is. Where ``if``, ``while``, ``int()``, ``.item()`` or an index of a list asks for a number
that is open, the run notes the other answers. Then it runs again from the same state, with the same answers up to there
and another one there; after that it goes its own way.

    "straight-through", "hard"   result + sum over flips of  weight * (result in the flip - result),  differences fixed
    "linear"                     sum over paths of  weight * result
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from ._mode.decorating import returned
from ._mode.guards import not_compiled
from ._mode.journal import Journal
from ._mode.results import Result, Unlike
from ._mode.runs import Asked, Endless, Run, Strayed
from ._mode.surroundings import Surroundings
from ._mode.threads import THREAD
from ._ops.callsite import CallSite, LostGradientError, short

__all__ = ["rerunning"]

MOST_CALLS = 10_000
"""A run on another path may ask and write ten times as often as the program itself, and so many times more."""


def rerunning(region: Any, fn: Any) -> Any:
    """`fn` in `region`, which runs it again where Python asks for what is open."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and not any(run.region is region for run in THREAD.runs):
            return _Call(region, fn, args, kwargs).result()
        with ExitStack() as on:
            on.push(region.enter())
            out = fn(*args, **kwargs)
            returned(region, fn, out)
            return out

    not_compiled(wrapper)
    return wrapper


class _Dropped(Exception):
    """A path that the program does not take comes to no result."""


class _Call:
    """A call of the function, with all its runs."""

    def __init__(self, region: Any, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.region, self.fn, self.args, self.kwargs = region, fn, args, kwargs
        self.around = Surroundings(fn, args, kwargs, region.policies())
        self.before = self.around.read()
        self.journal = Journal(self.around.tensors)
        self.most = 0

    def result(self) -> Any:
        with ExitStack() as on:
            on.push(self.region.enter())
            counts = dict(THREAD.entered[-1].counts)
            first = Run(self.region, self.journal)
            out = self._run(first)
            if not first.asked:
                returned(self.region, self.fn, out)
                return out
            self.counts, self.most = counts, 10 * first.calls + MOST_CALLS
            self._may_run_again(first)
            self.journal.done(self.region.linear)
            with torch._C.DisableTorchFunction():
                self.found = Result(out, self.region.engine.given, self.journal.holds)
            self._others(first)
            if not self.region.linear:
                with torch._C.DisableTorchFunction():
                    return self.found.with_flips()
        return self.found.by_weight()

    def _run(self, run: Run) -> Any:
        THREAD.runs.append(run)
        try:
            return self.fn(*self.args, **self.kwargs)
        finally:
            THREAD.runs.remove(run)

    def _others(self, first: Run) -> None:
        after, counts = self.around.read(), dict(self.region.counted())
        try:
            (self._paths if self.region.linear else self._flips)(first)
        finally:
            self.journal.after()
            after()
            self.region.count_from(counts)
        self.region.count_infinite("return", self.found.infinite)
        if self.found.lost:
            self.region.lose("return", (), _FLOAT, undecided=lambda: True)

    def _again(self, script: list[int], asked: list[Asked]) -> tuple[Run, list[Any]]:
        """Another run from the same state: what it will be asked first, and which way it goes there."""
        self.journal.before()
        self.before()
        self.region.count_from(dict(self.counts))
        run = Run(self.region, self.journal, script, asked, self.most)
        try:
            leaves = self.found.like(self._run(run))
        except Strayed as error:
            raise RuntimeError(
                f"paths={self.region.paths}: the function does not do the same when it runs again ({error}). It "
                "depends on something that is not put back: a file, the time, an object out of sight. Pass that as an "
                "argument"
            ) from None
        except LostGradientError:
            raise
        except (Endless, Exception) as error:
            said = str(error) if isinstance(error, (Endless, Unlike)) else f"it raises {type(error).__name__}: {error}"
            dropped = _Dropped(said)
            raise dropped from error
        self._may_run_again(run)
        return run, leaves

    def _may_run_again(self, run: Run) -> None:
        why = self.journal.refused and f"{self.journal.refused}. Do that after the call, or write to a new tensor"
        if self.around.once:
            why = f"it takes from a {self.around.once}, which gives its items only once. Pass a list, or what it gives"
        if why:
            site = short(run.asked[0].site)
            raise RuntimeError(f"paths={self.region.paths} runs the function again for {site}, but {why}")

    def _flips(self, first: Run) -> None:
        """Each open answer the other way, one at a time."""
        flips = [(n, i, way) for n, asked in enumerate(first.asked) for i, way in enumerate(asked.ways)]
        many, most = len(flips), self.region.paths - 1
        chosen = flips if many <= most else [flips[k] for k in self.region.draw(many)[:most]]
        factor = many / len(chosen)
        for n, _, _ in flips:
            self.region.followed.opened(first.asked[n].site)
        for n, i, way in chosen:
            site = first.asked[n].site
            try:
                run, leaves = self._again([0] * n + [i + 1], first.asked[: n + 1])
            except _Dropped as error:
                self.region.drop(site, f"on the path not taken {error}.")
                continue
            with torch._C.DisableTorchFunction():
                there = run.asked[n].ways[i].taken
                size = self.found.add_flip(leaves, there, way.taken, way.weight * factor)
            self.region.followed.ran(site, factor, size)

    def _paths(self, first: Run) -> None:
        """All paths, depth first."""
        with torch._C.DisableTorchFunction():
            self.found.add_path(self.found.leaves, first.taken, first.weight())
        todo, sites = _branches(first, 0), Counter(asked.site for asked in first.asked)
        done = 1
        while todo:
            if done + len(todo) > self.region.paths:
                self._too_many(done + len(todo), sites)
            script, asked = todo.pop()
            site = asked[-1].site
            self.region.followed.opened(site)
            try:
                run, leaves = self._again(script, asked)
            except _Dropped as error:
                raise RuntimeError(
                    f"paths={self.region.paths}: on the path that goes the other way at {short(site)} {error}. Guard "
                    'it there, or take forward="hard", which drops that path'
                ) from error.__cause__
            done += 1
            with torch._C.DisableTorchFunction():
                weight = run.weight()
                size = self.found.add_path(leaves, run.taken, weight)
                self.region.followed.ran(site, float(weight.detach()), size)
            todo += _branches(run, len(script))
            sites.update(asked.site for asked in run.asked[len(script) :])

    def _too_many(self, many: int, sites: Counter[CallSite]) -> None:
        site, times = sites.most_common(1)[0]
        raise RuntimeError(
            f"paths={self.region.paths} is not enough: at least {many} paths are open, most of them at {short(site)}, "
            f'which was open {times} times. Raise paths, take a narrower eps, or forward="hard", which runs once for '
            "each open answer"
        )


def _branches(run: Run, start: int) -> list[tuple[list[int], list[Asked]]]:
    """The paths that leave this one, from its question `start` on."""
    chosen = [asked.chosen for asked in run.asked]
    return [
        (chosen[:n] + [i + 1], run.asked[: n + 1])
        for n in range(start, len(chosen))
        for i in range(len(run.asked[n].ways))
    ]


_FLOAT = "it is a Python float, and another path returns another one. Return a tensor."
