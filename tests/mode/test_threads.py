"""A region belongs to its own thread and task: data loading, thread pools, asyncio."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import sll
from compatibility import row
from oracles import grads, leaf
from sll._mode.threads import IDLE

AREA = "threads, workers, asyncio"


MODES = ["linear", "hard", "straight-through"]


def slope(x=0.01):
    t = torch.tensor(x, requires_grad=True)
    return torch.autograd.grad(torch.sign(t), t)[0].item()


class Slopes(Dataset):
    """What a worker sees: as it is, and in a region of its own."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        around = slope()
        with sll.linearize(0.5):
            return around, slope()


@row(
    AREA,
    "`DataLoader` in a region, with and without workers",
    "works",
    "forked workers inherit it, spawned ones do not",
)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers(method):
    def seen(**options):
        around, own = torch.cat([torch.stack(pair, 1) for pair in DataLoader(Slopes(), **options)]).unbind(1)
        assert own.tolist() == [2.0] * 4
        return around.tolist()

    with sll.linearize(0.1):
        inherited = seen(num_workers=1, multiprocessing_context=method)
        assert inherited == pytest.approx([10.0 if method == "fork" else 0.0] * 4)
        assert seen() == pytest.approx([10.0] * 4)
    assert seen() == [0.0] * 4


@row(AREA, "`threading`, thread pools: each thread has its own regions", "works")
@pytest.mark.parametrize("forward", MODES)
def test_threads_have_their_own_regions(forward):
    barrier = threading.Barrier(4)

    def work(eps):
        barrier.wait()
        if eps is None:
            return [slope() for _ in range(50)]
        with sll.linearize(eps, forward=forward):
            return [slope() for _ in range(50)]

    widths = [None, 0.5, 0.25, 0.125]
    with ThreadPoolExecutor(4) as pool, sll.linearize(0.02, forward=forward):
        found = list(pool.map(work, widths))
        assert slope() == pytest.approx(50)
    for eps, slopes in zip(widths, found):
        assert slopes == [0.0 if eps is None else 1 / eps] * 50


@pytest.mark.parametrize("forward", MODES)
def test_one_region_object_in_several_threads(forward):
    region = sll.linearize(0.25, forward=forward)
    barrier = threading.Barrier(4)

    def work(_):
        x = torch.linspace(-1, 1, 101, requires_grad=True)
        for _ in range(20):
            barrier.wait()
            with region:
                mask = x > 0
                barrier.wait()
                y = torch.where(mask, x * x, x)
            (g,) = torch.autograd.grad(y.sum(), x)
        return g

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    x = torch.linspace(-1, 1, 101, requires_grad=True)
    with region:
        want = torch.autograd.grad(torch.where(x > 0, x * x, x).sum(), x)[0]
    for g in found:
        torch.testing.assert_close(g, want)


@row(AREA, "asyncio: decorated coroutines keep their region to themselves", "works")
def test_tasks():
    async def outside():
        found = []
        for _ in range(5):
            found.append(slope())
            await asyncio.sleep(0)
        return found

    inside = sll.enable(eps=0.5)(outside)

    async def main():
        return await asyncio.gather(inside(), outside(), inside(), outside())

    assert asyncio.run(main()) == [[2.0] * 5, [0.0] * 5] * 2


@row(
    AREA,
    "asyncio: `with sll.linearize(…)` around an `await`",
    "refused",
    "`RuntimeError` where two tasks leave their regions out of order; torch modes belong to the thread. "
    "Decorate the coroutine instead",
)
def test_with_around_await():
    """A with statement does not see that its task is suspended: the other task is inside the region meanwhile."""

    async def task(first):
        with sll.linearize(0.5 if first else 0.25):
            await asyncio.sleep(0)
            if first:
                await asyncio.sleep(0)

    async def main():
        return await asyncio.gather(task(False), task(True), return_exceptions=True)

    found = asyncio.run(main())
    assert any(
        isinstance(error, RuntimeError) and "while a region inside it was still on" in str(error) for error in found
    )
    assert slope() == 0.0


@pytest.mark.parametrize("forward", ["straight-through", "linear", "hard"])
def test_one_region_selects_in_several_threads(forward):
    """Who leaves it forgets what he selected, and not what the others did."""
    x = torch.linspace(-0.3, 1, 20, dtype=torch.float64, requires_grad=True)
    region = sll.linearize(0.4, forward=forward, on_lost="ignore")

    def gradient():
        with region:
            mean = x.detach()[x > 0].square().mean()
        return torch.autograd.grad(mean, x)[0]

    want = gradient()

    def wrong(_):
        found = []
        for _ in range(40):
            try:
                if not torch.equal(gradient(), want):
                    found.append("another gradient")
            except RuntimeError as error:
                found.append(str(error))
        return found

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = [one for each in pool.map(wrong, range(4)) for one in each]
    finally:
        sys.setswitchinterval(interval)
    assert not found and want.count_nonzero()


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_what_decides_nothing_is_passed_on_while_nothing_is_carried(forward):
    """`IDLE` is only that: a region in one thread, in which nothing carries anything yet."""
    region = sll.linearize(0.5, forward=forward)
    x = leaf(0.1)
    for _ in range(2):
        with region:
            assert IDLE.region is region
            y = x * 2
            assert IDLE.region is region
            with sll.hard():
                assert IDLE.region is None
            assert IDLE.region is region
            m = y > 0
            assert IDLE.region is None
            assert grads(m.float(), x) == [2.0]
        assert IDLE.region is None
    with sll.linearize(0.5, forward=forward, trace=True):  # it is told of every call
        assert IDLE.region is None
    with torch.no_grad(), region:
        assert IDLE.region is region
    with region, torch.no_grad():
        assert IDLE.region is None


def test_a_decision_of_an_inner_region_is_carried_by_the_idle_one_around_it():
    x = leaf(0.1)
    with sll.linearize(0.5, forward="straight-through"):
        with sll.linearize(0.5, forward="straight-through"):
            m = x > 0
        assert IDLE.region is None
        assert grads(torch.stack([m, m]).float(), x) == [2.0]


def test_a_decision_of_another_thread_is_carried_by_an_idle_region():
    """Both threads are in the region; the mask comes from one, and is used in the other."""
    region = sll.linearize(0.5, forward="straight-through")
    x, made = leaf(0.1), []
    entered, leave = threading.Event(), threading.Event()

    def decides():
        with region:
            made.append(x > 0)
            entered.set()
            leave.wait(10)

    with region:
        assert IDLE.region is region
        worker = threading.Thread(target=decides)
        worker.start()
        entered.wait(10)
        assert IDLE.region is None
        found = grads(torch.stack([made[0], made[0]]).float(), x)
        leave.set()
        worker.join()
    assert found == [2.0]
    with region:
        assert IDLE.region is region
