"""A region around functions, methods, generators and async functions."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle

import pytest
import torch

import sll
from oracles import grads, leaf, slope


def test_athrow_reaches_the_async_generator():
    log = []

    @sll.enable(eps=0.5)
    async def stream():
        x = leaf(0.0)
        try:
            yield 1
        except KeyError:
            log.append("caught")
            yield grads(torch.sign(x), x)
        finally:
            log.append(grads(torch.sign(x), x))

    async def main():
        g = stream()
        assert await g.__anext__() == 1
        assert await g.athrow(KeyError()) == [2.0]
        await g.aclose()

    asyncio.run(main())
    assert log == ["caught", [2.0]]


def test_decorators_keep_the_face_of_a_function():
    def f(x, *, k: int = 2):
        """Doc."""
        return torch.sign(x)

    for g in (sll.enable(f), sll.enable(eps=0.5)(f), sll.linearize(0.5)(f)):
        assert g.__name__ == "f" and g.__doc__ == "Doc." and inspect.signature(g) == inspect.signature(f)
    x = torch.zeros(1, requires_grad=True)
    assert torch.autograd.grad(sll.enable(f)(x).sum(), x)[0].item() == pytest.approx(1)  # (ties tell nothing)
    assert torch.autograd.grad(sll.enable(eps=0.5)(f)(x).sum(), x)[0].item() == 2.0


def test_decorated_methods():
    class Model(torch.nn.Module):
        @sll.enable(eps=0.5)
        def forward(self, x):
            return torch.sign(x)

        @staticmethod
        @sll.enable(eps=0.25)
        def static(x):
            return torch.sign(x)

        @sll.enable(eps=0.125)
        @classmethod
        def cls(cls, x):
            return torch.sign(x)

    x = torch.zeros(1, requires_grad=True)
    m = Model()
    assert [torch.autograd.grad(f(x).sum(), x)[0].item() for f in (m, m.static, m.cls)] == [2, 4, 8]


def test_generator_is_in_the_region_only_while_it_runs():
    log = []

    @sll.enable(eps=0.5)
    def steps():
        x = torch.tensor([0.1], requires_grad=True)
        m = x > 0
        try:
            got = yield m
            log.append((got, slope()))
            yield torch.autograd.grad(m.float(), x)[0].item()  # m carried its decision across the yield
        except KeyError:
            log.append("thrown")
            yield slope()
        return "done"

    g = steps()
    m = next(g)
    assert slope() == 0 and not hasattr(m, "_sll")
    assert g.send("sent") == pytest.approx(1)
    assert log == [("sent", 2.0)]
    assert slope() == 0
    assert g.throw(KeyError) == 2.0
    with pytest.raises(StopIteration, match="done"):
        next(g)
    closed = []

    @sll.enable(eps=0.5)
    def closing():
        try:
            yield 1
        finally:
            closed.append(slope())

    g = closing()
    next(g)
    g.close()
    assert closed == [2.0]


def test_async_functions_keep_their_region_to_themselves():
    seen = {}

    @sll.enable(eps=0.5)
    async def wide():
        for _ in range(3):
            seen.setdefault("wide", []).append(slope())
            await asyncio.sleep(0)
        return slope()

    @sll.enable(eps=0.25)
    async def narrow():
        for _ in range(3):
            seen.setdefault("narrow", []).append(slope())
            await asyncio.sleep(0)

    async def plain():
        for _ in range(3):
            seen.setdefault("plain", []).append(slope())
            await asyncio.sleep(0)

    @sll.enable(eps=0.125)
    async def stream():
        for _ in range(2):
            got = yield slope()
            assert got is None

    async def main():
        result, *_ = await asyncio.gather(wide(), narrow(), plain())
        assert result == 2.0
        return [item async for item in stream()]

    assert asyncio.run(main()) == [8.0, 8.0]
    assert seen == {"wide": [2.0] * 3, "narrow": [4.0] * 3, "plain": [0.0] * 3}


@pytest.mark.parametrize("paths", [1, 4])
def test_a_module_in_a_region_is_still_one(paths):
    class Signs(torch.nn.Sequential):
        def forward(self, x):
            return torch.sign(super().forward(x))

    module = Signs(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    inside = sll.linearize(0.5, forward="hard", paths=paths)(module)
    assert isinstance(inside, Signs) and type(inside).__name__ == "Signs" and type(module) is Signs
    assert list(inside.state_dict()) == list(module.state_dict())
    assert all(a is b for a, b in zip(inside.parameters(), module.parameters()))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    called = []
    inside.register_forward_hook(lambda *_: called.append(1))
    inside(x).sum().backward()
    assert module[0].weight.grad.abs().sum() > 0 and called == [1]
    assert module[1].num_batches_tracked == 1  # of one run, however many there were
    inside.eval()
    assert not inside.training and not module[1].training
    module.eval()
    assert torch.equal(inside(x), module(x))
    inside.load_state_dict({name: torch.zeros_like(value) for name, value in module.state_dict().items()})
    assert not module[0].weight.any()
    with pytest.raises(RuntimeError, match="does not require grad"):
        with torch.no_grad():
            out = inside(x)
        out.sum().backward()
    module.zero_grad()
    module(x).sum().backward()  # what was given is not in a region
    assert not module[0].weight.grad.any()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_module_in_a_region_have_their_own_weights(duplicate):
    module = torch.nn.Linear(2, 1, bias=False)
    inside = sll.linearize(0.5, forward="hard")(module)
    whole = torch.nn.Sequential(inside, torch.nn.Sigmoid())
    for other, weight in ((found := duplicate(inside), found.weight), (pair := duplicate(whole), pair[0].weight)):
        assert weight is not module.weight and torch.equal(weight, module.weight)
        with torch.no_grad():
            weight.zero_()
        other(torch.ones(1, 2)).sum().backward()
        assert weight.grad.any() and module.weight.grad is None and module.weight.all()
    again = duplicate(sll.linearize(0.5, forward="hard")(Rounds()))
    x = torch.full((1,), 0.6, requires_grad=True)
    again(x).sum().backward()
    assert x.grad.item() == 1.0  # a copy is in a region, too


def test_a_module_whose_forward_was_replaced_is_refused():
    module = torch.nn.Linear(2, 1)
    module.forward = lambda x: x
    with pytest.raises(TypeError, match="forward of Linear was replaced"):
        sll.linearize("auto")(module)


class Rounds(torch.nn.Module):
    def forward(self, x):
        return torch.round(x)


# --- masks and indices that leave ---

MODES = ("linear", "hard", "straight-through")


def gate(x):
    return x > 0


def largest(x):
    return {"at": [x[1:4].argmax()]}


def with_loss(x):
    return x.sum(), x.argmax()


LEAVE = (gate, largest, lambda x: (x > 0) & (x < 1), lambda x: x.long(), lambda x: x.topk(2).indices)


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("f", LEAVE)
@pytest.mark.parametrize("paths", [1, 4])
def test_what_leaves_a_decorated_function_is_told(f, forward, paths):
    x = torch.tensor([-0.5, 0.01, 0.02, 0.03, 1.02], requires_grad=True)
    region = sll.linearize(0.1, forward=forward, paths=paths)
    with pytest.warns(sll.LostGradientWarning, match=f"the return of {f.__name__}: outside the region"):
        region(f)(x)
    assert [site.op for site in region.report().lost] == [f"the return of {f.__name__}"] and not region.report().left


@pytest.mark.parametrize("forward", MODES)
def test_what_is_used_or_returned_beside_a_gradient_is_not(forward):
    """A model returns its loss and its predictions."""
    x = torch.tensor([-0.5, 0.01, 0.02, 0.03, 1.02], requires_grad=True)
    region = sll.linearize(0.1, forward=forward)
    region(with_loss)(x)
    region(lambda x: gate(x).float())(x)
    region(gate)(x + 9)  # nothing is in its band
    with torch.no_grad():
        region(gate)(x)
    region(gate)(x.detach())
    assert [site.op for site in region.report().lost] == ["the return of gate"]
    assert sum(region.report().left.values()) == 1  # (the predictions: the report says so)
    with region:
        y = torch.where(region(gate)(x), x, 2 * x)
    assert y.requires_grad and sum(region.report().lost.values()) == 1


@pytest.mark.parametrize("forward", MODES)
def test_what_a_region_does_not_use_is_in_its_report(forward):
    x = torch.tensor([-0.5, 0.01, 0.02, 0.03, 1.02], requires_grad=True)
    region = sll.linearize(0.1, forward=forward)
    with region:
        mask, used, index = x > 0, x > 0.5, x.argmax()
        y = torch.where(used, x, 0).sum() + x[index] + (x > 2).float().sum()
    ((site, many),) = region.report().left.items()
    assert many == 1 and site.op == "with" and f"{site.line} (with): masks or indices" in str(region.report())
    assert "No mask or index ended" not in str(region.report()) and y.requires_grad and mask.any()
    with region, region:
        kept = x > 0
    with region:
        pass
    assert sum(region.report().left.values()) == 2 and kept.any()
