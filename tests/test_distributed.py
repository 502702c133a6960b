"""Two gloo processes: the training of one process with the joined batch, whatever share of which rank is in a band."""

from __future__ import annotations

import copy
import os
import time
import warnings
from contextlib import nullcontext
from datetime import timedelta
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import sll
from compatibility import row
from sll._ops import ranks

AREA = "distributed"
STEPS = 8
pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")


class Net(nn.Module):
    """`never` is used on rows that are beyond a threshold only: on one rank there may be none."""

    def __init__(self, checkpointed=False):
        super().__init__()
        self.first, self.never, self.last = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 2)
        self.checkpointed = checkpointed

    def block(self, x):
        z = self.first(x)
        return torch.where(x[:, :1] + 0.1 * z[:, :1] > 1.0, torch.round(self.never(x)), torch.sign(z))

    def forward(self, x):
        h = checkpoint(self.block, x, use_reentrant=False) if self.checkpointed else self.block(x)
        return self.last(h)


def data():
    """The first half far from every boundary, the second near: uneven coverage."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(32, 4, generator=g)
    x[:16] = x[:16].sign() * (3 + x[:16].abs())
    x[:16, 0] = -5  # never taken there
    return x, torch.randn(32, 2, generator=g)


def train(model, parameters, rows, region, kind=""):
    """Losses of each step, with SGD: the mean over ranks of equal size, or over parts, is the mean of the batch."""
    x, y = (t[rows] for t in data())
    parts, half = 2 if "accumulated" in kind else 1, "autocast" in kind
    optimizer = torch.optim.SGD(parameters, 0.1)
    loss_of = lambda x, y: (model(x) - y).square().mean()
    if "step" in kind:
        loss_of, region = sll.compile(loss_of, 0.3, forward="straight-through", backend="aot_eager"), nullcontext()
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = 0
        for i, each in enumerate(zip(x.chunk(parts), y.chunk(parts))):
            with model.no_sync() if i + 1 < parts and hasattr(model, "no_sync") else nullcontext():
                with region, torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = loss_of(*each) / parts
                loss.backward()
            total += loss.detach()
        optimizer.step()
        losses.append(total)
    return torch.stack(losses)


KINDS = [
    "ddp",
    "ddp, region inside forward",
    "ddp, find_unused_parameters",
    "ddp, checkpointed",
    "ddp, compiled",
    "ddp, compiled, checkpointed",
    "ddp, accumulated",
    "ddp, step compiled, accumulated, checkpointed",
    "fsdp2",
]
IN_HALF = ["ddp, autocast", "ddp, step compiled, autocast"]


def prepared(kind):
    torch.manual_seed(0)
    net = Net(checkpointed="checkpointed" in kind)
    region = sll.linearize(0.3, forward="straight-through" if "compiled" in kind or kind in IN_HALF else None)
    if "inside" in kind:
        net.forward = region(net.forward)
        region = sll.hard()
    return net, region


WAYS = ["eager", "compiled"]


def widths(rank, way):
    """What "auto" remembers after some steps in which nothing is learned: twice a median of each rank's own rows."""
    torch.manual_seed(0)
    net, auto = Net(), sll.Auto(steps=3)
    model = torch.compile(DistributedDataParallel(net), backend="aot_eager", disable=way == "eager")
    region, x = sll.linearize(auto), data()[0][16 * rank : 16 * rank + 16]
    for _ in range(5):
        with region:
            model(x).sum().backward()
    with torch.no_grad():
        own = 2 * net.first(x).abs().flatten().median().item()
    return dict(auto.remembered), set(auto.kept.values()), own


def decides_alone(rank):
    """Only rank 1 comes by these lines. How long it takes there, what it keeps and what it says."""
    auto, x = sll.Auto(steps=1), torch.tensor([-3.0, -1.0, 1.0, 2.0], requires_grad=True)
    region, start = sll.linearize(auto), time.monotonic()
    with mock.patch.object(ranks, "WAIT", timedelta(seconds=1)), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3 if rank else 0):
            with region:
                (torch.sign(x) + torch.sign(2 * x)).sum().backward()
            with region:
                torch.sign(x - 4).sum().backward()
    dist.barrier()
    return time.monotonic() - start, sorted(auto.remembered.values()), [str(warning.message) for warning in said]


def worker(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    try:
        for kind in KINDS + IN_HALF:
            net, region = prepared(kind)
            if kind == "fsdp2":
                from torch.distributed.device_mesh import init_device_mesh
                from torch.distributed.fsdp import fully_shard

                mesh = init_device_mesh("cpu", (2,))
                for part in (net.first, net.never, net.last, net):
                    fully_shard(part, mesh=mesh)
                model = net
            else:
                model = DistributedDataParallel(net, find_unused_parameters="find" in kind)
            if "compiled" in kind and "step" not in kind:
                model = torch.compile(model, backend="aot_eager")
            losses = train(model, model.parameters(), slice(16 * rank, 16 * rank + 16), region, kind)
            dist.all_reduce(losses)
            trained = {
                name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
                for name, p in net.named_parameters()
            }
            if rank == 0:
                results[kind] = (losses / 2, trained)
        for way in WAYS:
            results[way, rank] = widths(rank, way)
        results["alone", rank] = decides_alone(rank)
    finally:
        dist.destroy_process_group()
    # The threads of gloo may still hold tensors that Python knows; letting go of them while the interpreter shuts down
    # aborts the process now and then (pytorch/pytorch#179291). All is delivered: no shutdown.
    os._exit(0)


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    path = tmp_path_factory.mktemp("gloo") / "store"
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(worker, (str(path), results), nprocs=2)
        return dict(results)


@row(
    AREA,
    "`DistributedDataParallel` (also compiled), FSDP2 (`fully_shard`), two gloo processes, uneven band coverage",
    "works",
)
@pytest.mark.parametrize("kind", KINDS)
def test_as_one_process_with_the_joined_batch(kind, of_two_processes):
    losses, trained = of_two_processes[kind]
    net, region = prepared(kind)
    untrained = copy.deepcopy(net.state_dict())
    want = train(net, net.parameters(), slice(None), region, "accumulated" if "accumulated" in kind else "")
    torch.testing.assert_close(losses, want, rtol=1e-5, atol=1e-6)
    for name, p in net.named_parameters():
        torch.testing.assert_close(trained[name], p.detach(), rtol=1e-5, atol=1e-6)
        assert not torch.equal(untrained[name], p), name


def test_a_compiled_step_in_half_precision(of_two_processes):
    """As in eager mode. (One process with the joined batch rounds other sums.)"""
    (losses, trained), (want, as_eager) = (of_two_processes[kind] for kind in reversed(IN_HALF))
    torch.testing.assert_close(losses, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trained, as_eager, rtol=1e-4, atol=1e-5)
    assert not torch.equal(losses, of_two_processes["ddp, compiled"][0])


@row(AREA, '`"auto"` on two ranks, eager and compiled: all keep the widths that rank 0 has measured', "works")
@pytest.mark.parametrize("way", WAYS)
def test_all_ranks_keep_the_widths_of_rank_zero(way, of_two_processes):
    (first, kept, own), (second, kept_there, other) = (of_two_processes[way, rank] for rank in (0, 1))
    assert first == second and len(first) == 2
    assert kept == kept_there == set(first.values())  # what is shown is what is used
    assert min(abs(half / own - 1) for half in kept) < 1e-6  # the sign's
    assert abs(own / other - 1) > 0.1, "both ranks would measure the same: this test shows nothing"


def test_a_rank_that_decides_alone_waits_once_and_says_so(of_two_processes):
    seconds, kept, said = of_two_processes["alone", 1]
    assert kept == pytest.approx([2.0, 2.0, 6.0])
    assert len(said) == 1 and "rank 1 has waited 1 s for the width of rank 0 at" in said[0]
    assert seconds < 8
    assert of_two_processes["alone", 0][1:] == ([], [])


def test_the_ranks_are_uneven():
    """What the fixture promises: the first rank has nothing in its bands at the start, the second has."""
    net, _ = prepared("ddp")
    x, _ = data()
    shares = [(net.first(part).abs() < 0.3).float().mean().item() for part in (x[:16], x[16:])]
    reached = x[:, 0] + 0.1 * net.first(x)[:, 0] > 1.0 - 0.3
    assert shares[1] > 1.5 * shares[0] and not reached[:16].any() and reached[16:].any()
