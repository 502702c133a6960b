"""The region as an object: entering, nesting, decorating, threads, and what is left behind (nothing)."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from torch.overrides import get_overridable_functions

import sll
from oracles import grads, leaf, slope


def test_headline():
    for forward in ("linear", "hard"):
        x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
        with sll.linearize(eps=1e-2, forward=forward):
            y = torch.sign(x)
            z = torch.round(y * 10)
            z.sum().backward()
        assert z.tolist() == [-10, 0, 10]
        assert x.grad.tolist() == [0, 1000, 0]


def test_enter_nest_reuse():
    wide, narrow = sll.linearize(1.0), sll.linearize(0.1)
    assert slope() == 0
    with wide as region:
        assert region is wide
        assert slope() == pytest.approx(1)
        with narrow:
            assert slope() == pytest.approx(10)
            with wide:  # re-entrant
                assert slope() == pytest.approx(1)
            assert slope() == pytest.approx(10)
            with sll.hard():
                assert slope() == 0
                with narrow:
                    assert slope() == pytest.approx(10)
            assert slope() == pytest.approx(10)
        assert slope() == pytest.approx(1)
    assert slope() == 0
    with wide:
        assert slope() == pytest.approx(1)


def test_innermost_decides_what_is_left_alone():
    """What the inner region excludes runs hard; the outer region does not pick it up."""
    x = torch.zeros(1, requires_grad=True)
    with sll.linearize(1.0), sll.linearize(0.1, exclude=["sign"]):
        y, z = torch.sign(x), torch.round(x + 0.5)
    assert not torch.autograd.grad(y.sum(), x)[0].any()
    assert torch.autograd.grad(z.sum(), x)[0].item() == pytest.approx(5)


def test_values_of_an_inner_region_go_on_in_the_outer():
    @sll.enable(eps=0.5)
    def mask(x):
        return x > 0

    x = torch.tensor([0.1], requires_grad=True)
    with sll.linearize(1.0):
        m = mask(x)
        y = m.float()
    assert torch.autograd.grad(y, x)[0].item() == pytest.approx(1)
    assert not hasattr(m, "_sll")


@pytest.mark.parametrize("decorate", [sll.enable(0.5), sll.enable(eps=0.5), sll.enable({"sign": 0.5, "default": 0.1})])
def test_a_decorator_takes_its_width_in_either_way(decorate):
    x = torch.tensor([0.1], requires_grad=True)
    assert torch.autograd.grad(decorate(torch.sign)(x), x)[0].item() == pytest.approx(2)
    assert repr(sll.enable("auto")) == repr(sll.linearize("auto"))


def test_exception_leaves_the_region():
    with pytest.raises(ZeroDivisionError), sll.linearize(1.0):
        m = torch.zeros(1, requires_grad=True) > 0
        raise ZeroDivisionError
    assert not hasattr(m, "_sll")
    assert slope() == 0


def test_only_and_exclude():
    x = torch.zeros(1, requires_grad=True)
    with sll.linearize(1.0, only=["round"]):
        assert not torch.autograd.grad(torch.sign(x).sum(), x)[0].any()
        assert torch.autograd.grad(torch.round(x + 0.5).sum(), x)[0].any()
        assert not hasattr(x > 0, "_sll")
    with sll.linearize({"default": 1.0, "sign": 0.25}, exclude=("gt",)):
        assert torch.autograd.grad(torch.sign(x).sum(), x)[0].item() == 4.0
        assert not hasattr(x > 0, "_sll")
        assert hasattr(x >= 0, "_sll")


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: sll.linearize(0), ValueError, "eps must be positive and finite, got 0"),
        (lambda: sll.linearize(-1.0), ValueError, "got -1.0"),
        (lambda: sll.linearize(float("nan")), ValueError, "eps"),
        (lambda: sll.linearize(float("inf")), ValueError, "eps"),
        (lambda: sll.linearize("wide"), ValueError, '"auto", or a policy'),
        (lambda: sll.linearize(True), TypeError, "eps"),
        (lambda: sll.linearize([0.1]), TypeError, "eps"),
        (lambda: sll.linearize(torch.tensor(1.0)), TypeError, r"call \.item\(\)"),
        (lambda: sll.linearize(lambda x: x), TypeError, "@sll.enable"),
        (lambda: setattr(sll.linearize(0.1), "eps", 0.2), AttributeError, "eps"),
        (lambda: sll.linearize({"round": 0.5}), ValueError, "'default'"),
        (lambda: sll.linearize({"default": 1.0, "rnd": 0.5}), ValueError, "rnd"),
        (lambda: sll.linearize({"default": 1.0, "round": -0.5}), ValueError, r"eps\['round'\]"),
        (
            lambda: sll.linearize(forward="soft"),
            ValueError,
            "forward must be one of 'linear', 'hard', 'straight-through', got 'soft'",
        ),
        (lambda: sll.linearize(on_lost="print"), ValueError, "on_lost"),
        (lambda: sll.linearize(only="round"), TypeError, "only"),
        (lambda: sll.linearize(exclude=["argmux"]), ValueError, "argmux"),
        (lambda: sll.linearize(1.0)(3), TypeError, "decorates functions"),
        (lambda: sll.linearize(1.0)(torch.nn.ReLU), TypeError, "decorates functions"),
        (lambda: sll.enable(0.5, 0.1), TypeError, "positional"),
        (lambda: sll.enable(0.5, eps=0.1), TypeError, "eps"),
        (lambda: sll.enable("wide"), ValueError, "eps"),
        (lambda: sll.unpatch(), RuntimeError, "without patch"),
        (lambda: sll.sign(3.0), TypeError, "x must be a tensor"),
        (lambda: sll.sign(torch.tensor(3)), TypeError, "floating point"),
        (lambda: sll.round(torch.zeros(1), eps=-1), ValueError, "eps"),
        (lambda: sll.threshold(torch.zeros(1), "a"), TypeError, "threshold"),
        (lambda: sll.argmax(torch.zeros(())), ValueError, "dimension"),
        (lambda: sll.argmax(torch.zeros(2, 0)), ValueError, "no entries"),
        (lambda: sll.argmax(torch.zeros(2), dim=3), IndexError, "dim"),
        (lambda: sll.sign(torch.zeros(1), forward="x"), ValueError, "forward"),
    ],
)
def test_bad_input_is_named(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_defaults():
    """To train, nothing is to be said; the formula has the width it always had."""
    auto, bare = sll.linearize(), sll.enable(lambda x: x)
    assert (auto.eps, auto.forward) == ("auto", "straight-through") and callable(bare)
    for forward in ("linear", "hard"):
        assert sll.linearize(forward=forward).eps == 1e-3
        assert sll.linearize("auto", forward=forward).eps == "auto"
    assert sll.linearize(1e-2).forward == "linear"
    x = torch.tensor([0.4, 3.0], requires_grad=True)
    sll.enable(torch.sign)(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([1 / 0.8, 0.0])  # two medians
    assert "eps='auto'" in str(sll.explain(torch.sign, x))


def test_numpy_numbers_are_numbers():
    assert sll.linearize(np.float32(0.5)).eps_for("sign") == 0.5
    assert sll.linearize({"default": np.float64(0.5), "sign": 1}).eps_for("sign") == 1.0


def test_patch_and_unpatch():
    region = sll.patch(0.5)
    try:
        assert slope() == 2.0
        sll.patch(0.25, forward="hard")
        assert slope() == 4.0
        with sll.linearize(1.0):
            assert slope() == 1.0
            with pytest.raises(RuntimeError, match="leave that first"):
                sll.unpatch()
        assert slope() == 4.0
    finally:
        sll.unpatch()
    assert slope() == 0 and isinstance(region, sll.linearize)


def test_no_grad_shows_the_deployed_program():
    x = torch.tensor([0.001], requires_grad=True)
    with sll.linearize(1.0):
        m = x > 0
        with torch.no_grad():
            assert torch.sign(x).item() == 1.0
            assert m.float().item() == 1.0
        with torch.inference_mode():
            assert torch.sign(x).item() == 1.0
        assert torch.sign(x.detach()).item() == 1.0
        with pytest.warns(sll.LostGradientWarning, match="item"):  # (with gradients on it is a decision that ends)
            sign = torch.sign(x).item()
        with pytest.warns(sll.LostGradientWarning, match="item"):
            share = m.float().item()
    shown = (sign, share)  # (what is only asserted is not missed)
    torch.testing.assert_close(shown, (0.001, 0.5005))


# --- nothing is left behind --------------------------------------------------------------------------------------


def ids():
    return {
        (str(namespace), func.__name__): id(getattr(namespace, func.__name__, func))
        for namespace, functions in get_overridable_functions().items()
        for func in functions
        if getattr(func, "__name__", "__get__") not in ("__get__", "__set__", "__delete__")
    }


def test_torch_is_untouched():
    before, rng = ids(), torch.get_rng_state()
    namespace = {name: id(member) for name, member in vars(torch).items()}
    tensor = {name: id(member) for name, member in vars(torch.Tensor).items()}
    try:
        with sll.linearize(1.0):
            x = torch.zeros(3, requires_grad=True)
            ((torch.sign(x) > 0) * x).sum().backward()
            raise KeyError
    except KeyError:
        pass
    assert ids() == before and len(before) > 1000
    assert namespace == {name: id(member) for name, member in vars(torch).items()}
    assert tensor == {name: id(member) for name, member in vars(torch.Tensor).items()}
    assert torch.equal(rng, torch.get_rng_state())
    assert not (x > 0).requires_grad and not hasattr(x > 0, "_sll")


def test_types_and_layout_of_discrete_results():
    x = torch.randn(4, 6, requires_grad=True).t()
    with sll.linearize(0.5):
        for f in (
            lambda x: x > 0,
            lambda x: torch.round(x).long(),
            lambda x: (x * 3).to(torch.int8),
            lambda x: ~(x > 0),
            torch.sign,
        ):
            inside, outside = f(x), f(x.detach())
            assert type(inside) is torch.Tensor
            assert (inside.shape, inside.dtype, inside.device, inside.stride()) == (
                outside.shape, outside.dtype, outside.device, outside.stride(),
            )  # fmt: skip


def test_saved_results_load_without_sll(tmp_path):
    x = torch.tensor([-0.2, 0.0, 0.3], requires_grad=True)
    with sll.linearize(0.5):
        results = {"mask": x > 0, "ints": torch.round(x * 3).long(), "floats": torch.sign(x), "count": (x > 0).sum()}
        inside = tmp_path / "inside.pt"
        torch.save({k: v.detach() for k, v in results.items()}, inside)
        torch.save(results["mask"], tmp_path / "mask_inside.pt")
        pickle.loads(pickle.dumps(results["mask"]))
        twin = copy.deepcopy(results["mask"])
        assert torch.equal(twin.detach(), results["mask"].detach()) and not vars(twin)
        with torch.no_grad():
            torch.save(results["mask"], tmp_path / "mask_inside.pt")
            assert not vars(copy.deepcopy(results["mask"]))
    torch.save(results, tmp_path / "outside.pt")
    code = (
        "import sys, torch; sys.modules['sll'] = None\n"
        f"for name in ('inside', 'mask_inside', 'outside'):\n"
        f"    r = torch.load({str(tmp_path)!r} + '/' + name + '.pt', weights_only=True)\n"
        "    tensors = r.values() if isinstance(r, dict) else [r]\n"
        "    assert all(type(t) is torch.Tensor for t in tensors), name\n"
        "print('loaded')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "loaded", done.stderr
    assert all(not vars(t) for t in results.values())


def test_hundreds_of_regions_leak_nothing():
    def once():
        x = torch.linspace(-1, 1, 64, requires_grad=True)
        with sll.linearize(0.5, forward="hard"):
            m = x > 0
            n = (torch.round(x * 3).long() == 1) & m
            y = torch.where(n, x, -x).sum() + m.sum() / 3
            u = x
            for _ in range(3):
                s = (u > 0.1).float()
                u = u * 0.9 - s
        y.backward()
        return [weakref.ref(t) for t in (x, m, n, y, s, u)]

    def objects():
        gc.collect()
        ours = [
            o for o in gc.get_objects() if isinstance(o, torch.Tensor) or str(type(o).__module__).startswith("sll.")
        ]
        return len(ours)

    for _ in range(20):
        once()
    before = objects()
    refs = [ref for _ in range(250) for ref in once()]
    alive_before_gc = sum(ref() is not None for ref in refs)
    gc.collect()
    assert not any(ref() is not None for ref in refs)
    assert alive_before_gc < 25  # reference counting alone frees nearly everything
    del refs
    assert objects() <= before  # other tests may leave something that goes meanwhile


def test_a_long_region_does_not_collect_dead_tensors():
    from sll._mode.threads import THREAD as _THREAD

    x = torch.zeros(8, requires_grad=True)
    with sll.linearize(0.5):
        for _ in range(2000):
            _ = (x > 0).float()
        gc.collect()
        live = _THREAD.entered[-1].live
        assert sum(ref() is not None for ref in live) < 10
        assert len(live) <= 256  # what is gone is swept out: how soon depends on which addresses are used again
        for _ in range(2000):  # no address twice, whatever the allocator does
            _THREAD.entered[-1].adopt([weakref.ref(x.detach())])
        assert len(_THREAD.entered[-1].live) <= 256


def test_threads_do_not_see_each_other():
    shared = sll.linearize(0.5)
    barrier, seen = threading.Barrier(8), {}

    def work(i):
        own = sll.linearize(2.0 ** -(i + 1))
        out = []
        for _ in range(20):
            barrier.wait()
            if i % 2:
                with own:
                    barrier.wait()
                    out.append(slope())
            else:
                with shared:
                    x = torch.tensor([0.1], requires_grad=True)
                    m = x > 0
                    barrier.wait()
                    out.append(torch.autograd.grad(m.float(), x)[0].item())
            out.append(slope())
        seen[i] = out

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for i in range(8):
        assert seen[i] == [2.0 ** (i + 1) if i % 2 else 1.0, 0.0] * 20


def test_backward_outside_the_region():
    x = torch.tensor([0.1], requires_grad=True)
    with sll.linearize(0.5):
        y = torch.where(x > 0, x, -x).sum()
    y.backward()
    assert x.grad.item() == pytest.approx(0.6 - 0.4 + 0.2 / 1.0)


CARRIED_ON = {
    "mask": (lambda x: x > 0, lambda m: torch.where(m, 3.0, -1.0).sum()),
    "integer": (lambda x: (x > 0).long() + 1, lambda n: torch.tensor([0.0, 2.0, 7.0])[n].sum()),
    "choice": (lambda x: x.argmax(), lambda i: torch.tensor([1.0, 5.0, 2.0, 9.0])[i]),
    "selection": (lambda x: x[x > 0] * 2, lambda s: s.sum()),
    "written to": (lambda x: x > 0, lambda m: m.logical_not_().float().sum() * 3),
}


@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize("inside", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("around", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", CARRIED_ON)
def test_what_was_decided_in_another_mode_is_carried_on_as_it_was(name, around, inside, trace):
    decide, use = CARRIED_ON[name]
    found = []
    for forward in (around, inside):
        x = torch.tensor([-0.5, 0.05, -0.02, 0.07], requires_grad=True)
        with sll.linearize(0.1, forward=around, on_lost="error", trace=trace):
            decided = decide(x * 1)
            with sll.linearize(0.1, forward=forward, on_lost="error"):
                y = use(decided)
        found.append(torch.autograd.grad(y, x)[0])
    assert found[0].any()
    torch.testing.assert_close(*found)


def test_patch_inside_a_region_that_ends_first():
    x = leaf(0.0)
    with pytest.raises(RuntimeError, match="Call unpatch"), sll.linearize(1.0):
        sll.patch(0.5)
        m = x > 0
    assert grads(torch.sign(x), x) == [0] and not vars(m)
    with pytest.raises(RuntimeError, match="without patch"):
        sll.unpatch()


def test_is_the_default_of_auto_only():
    assert sll.linearize("auto").forward == "straight-through"
    assert sll.linearize("auto", forward="linear").forward == "linear"
    assert sll.linearize(0.1).forward == sll.linearize(sll.Coverage(0.5)).forward == "linear"
    assert sll.linearize({"default": "auto", "round": 0.5}).forward == "straight-through"
    assert sll.linearize({"default": 0.1, "round": "auto"}).forward == "straight-through"
