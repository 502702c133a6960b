"""Policies: what ``eps=`` accepts beside a float.

The oracle: a policy's region is the region of the fixed half-width that the report names, to the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

import sll
from programs import PROGRAMS
from sll._ops.samples import SAMPLE, from_last, leads, pairs
from sll._rules.widths import Width
from sll.auto import AUTO
from sll.policies import Call, quantile

X = torch.linspace(-2.4, 2.4, 97, dtype=torch.float64)
POLICIES: dict[str, Any] = {
    "auto": lambda: sll.Auto(steps=0),  # (what it remembers: test_auto.py)
    "coverage": lambda: sll.Coverage(0.3),
    "anneal": lambda: sll.Anneal(0.4, 0.1, 10),
    "anneal a share": lambda: sll.Anneal(sll.Coverage(0.9), sll.Coverage(0.1), 10),
}


def gradients(f, x0):
    x = x0.clone().requires_grad_()
    y = f(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def only_eps(region):
    """The one half-width that the region's report names."""
    (used,) = region.report().eps.values()
    assert used.smallest == used.largest
    return used.smallest


ONE_DECISION = {
    "sign": torch.sign,
    "gt": lambda x: (x > 0.3).double() * x,
    "lt": lambda x: torch.where(x < -0.2, x, 2 * x),
    "heaviside": lambda x: torch.heaviside(x, x.new_tensor(0.5)),
    "threshold": lambda x: torch.nn.functional.threshold(x, 0.1, 0.0),
    "hardshrink": torch.nn.functional.hardshrink,
    "isclose": lambda x: torch.isclose(x, torch.zeros_like(x), atol=0.5).double(),
    "round": torch.round,
    "round decimals": lambda x: torch.round(x, decimals=1),
    "floor": torch.floor,
    "trunc": torch.trunc,
    "frac": torch.frac,
    "cast": lambda x: x.long() * 1.0,
    "remainder": lambda x: x % 0.7,
    "floor_divide": lambda x: x // 0.7,
    "remainder of tensors": lambda x: x % torch.full_like(x, 0.7),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.5]).double()) * 1.0,
    "argmax": lambda x: (x.argmax() == torch.arange(97)) * x,
    "max": lambda x: (x.reshape(1, -1).max(1).indices == torch.arange(97)) * x,
    "topk": lambda x: torch.zeros(97).double().scatter(0, x.topk(5).indices, 1.0) * x,
    "sort": lambda x: x.sin().argsort() * x,
    "median": lambda x: (x.median(0).indices == torch.arange(97)) * x,
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ONE_DECISION)
def test_is_the_region_of_the_width_it_reports(name, policy, forward):
    f = ONE_DECISION[name]
    region = sll.linearize(POLICIES[policy](), forward=forward)
    with region:
        got = gradients(f, X)
    if name == "remainder of tensors":  # the policy is asked in units of the divisor
        with sll.linearize(only_eps(region) * 0.7, forward=forward):
            want = gradients(f, X)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        return
    with sll.linearize(only_eps(region), forward=forward):
        want = gradients(f, X)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert got[1].abs().sum() > 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["headline", "quantize_int8", "and_where", "vote", "mod_sign", "one_hot"])
def test_forward_hard_is_the_plain_program(name, policy):
    f = PROGRAMS[name]
    with sll.linearize(POLICIES[policy](), forward="hard"):
        got = f(X.clone().requires_grad_())
    assert torch.equal(got.detach(), f(X))


@given(
    n=st.integers(1, 5000),
    share=st.floats(0.01, 1.0),
    scale=st.floats(-20, 20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10),
)
@example(n=1565, share=1.0, scale=0.0, dtype=torch.float32, seed=3)
@settings(max_examples=60, deadline=None)
def test_coverage_holds_the_share(n, share, scale, dtype, seed):
    x = (torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 10**scale).requires_grad_()
    with sll.linearize(sll.Coverage(share)):
        (g,) = torch.autograd.grad(torch.sign(x).sum(), x)
    held = (g != 0).double().mean().item()
    # Exactly the smallest number of elements that is at least the share; of a sample, within five standard errors, and
    # at both ends what lies beyond the largest of a sample is more than 15 / SAMPLE as rarely (exp(-15)).
    error = 0 if n <= SAMPLE else 5 * math.sqrt(share * (1 - share) / SAMPLE) + 15 / SAMPLE
    assert math.ceil(share * n - 1e-6) / n - error <= held <= math.ceil(share * n) / n + error


SHAPES = {
    "one element": torch.tensor([0.3]),
    "0-dim": torch.tensor(-0.3),
    "empty": torch.zeros(0, 3),
    "zeros": torch.zeros(5),
    "constant": torch.full((5,), 2.0),
    "ties and one other": torch.tensor([0.0, 0.0, 1.5]),
    "nan": torch.tensor([math.nan, math.nan]),
    "nan, inf and others": torch.tensor([math.nan, math.inf, -math.inf, 0.5, -2.0]),
    "half": torch.tensor([0.1, -3.0, 60000.0]).half(),
    "bfloat16": torch.tensor([0.1, -3.0, 1e30]).bfloat16(),
    "tiny": torch.tensor([1e-42, -1e-42]),
    "huge": torch.tensor([1e38, -3e38]),
    "strided": torch.linspace(-1, 1, 40).reshape(5, 8)[::2, ::3],
    "expanded": torch.tensor([[0.5], [-1.0]]).expand(2, 4),
}
OPS = {
    "sign": torch.sign,
    "gt": lambda x: (x > 2.0).to(x.dtype),
    "round": torch.round,
    "remainder": lambda x: x % 1.5,
    "argmax": lambda x: x if x.numel() == 0 else (x.argmax(-1, keepdim=True) == 0) * x.detach(),
    "sort": lambda x: x if x.dim() == 0 else x.argsort(-1) * 1.0 * x.detach(),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_the_input(shape, op, policy):
    x = SHAPES[shape].clone().requires_grad_()
    with sll.linearize(POLICIES[policy](), forward="hard"):
        y = OPS[op](x)
        if y.requires_grad:
            y.nansum().backward()
    torch.testing.assert_close(y.detach(), OPS[op](SHAPES[shape].clone()), equal_nan=True, rtol=0, atol=0)
    if x.grad is not None:
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("policy", POLICIES)
def test_every_single_decision_gets_a_gradient(policy):
    """One element, or equal ones, are never out of reach of a share."""
    if policy == "anneal":
        pytest.skip("half-widths, not shares")
    for x0 in (torch.tensor(-7.0), torch.tensor([3.0]), torch.full((4,), 2.5), torch.zeros(3)):
        with sll.linearize(POLICIES[policy]()):
            assert (gradients(torch.sign, x0)[1] != 0).all()


def test_one_decision_asked_for_twice_is_one_decision():
    for policy in POLICIES.values():
        x = torch.linspace(-1, 1, 9).requires_grad_()
        with sll.linearize(policy()):
            m, n = x > 0, x <= 0
            assert not torch.equal((m & m).float(), (m & n).float())
            assert (m & n).float().eq(0).all()
            assert (m | n).float().eq(1).all()
            assert torch.equal((torch.sign(x) * torch.sign(x).detach().sign()).detach() > -2, torch.ones(9) > 0)


def test_the_same_gradient_again():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    with sll.linearize("auto"):
        first = gradients(torch.sign, x)
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(torch.sign, x)))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("scale", [1e-4, 0.3, 1.0, 1e4])
def test_auto_is_the_unit_window_within_reason(scale):
    """``|d| <= 1``, but no fewer than 2 % and no more than 75 % of the inputs."""
    x = torch.linspace(-scale, scale, 1000)
    (_, g) = gradients(lambda x: sll.sign(x, eps="auto"), x)  # no line of its own in a region: nothing remembers
    held, slope = (g != 0).float().mean().item(), g.max().item()
    if scale <= 1:
        assert held == pytest.approx(0.75, abs=2e-3)
    else:
        assert held == pytest.approx(0.02, abs=2e-3)
    assert slope == pytest.approx(1 / (held * scale), rel=0.1)
    y = torch.tensor([-3.0, -2.0, -0.9, 0.5, 2.0, 4.0])
    assert gradients(lambda y: sll.sign(y, eps="auto"), y)[1].tolist() == [0, 0, 1, 1, 0, 0]


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1e-45, 0.3, 0.9999988, 0.9999999, 1.0, 1.0000002, 1.5, math.inf, math.nan]),
        max_size=60,
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_auto_counts_what_it_would_find_by_sorting(numbers, dtype):
    d = torch.tensor(numbers, dtype=dtype)
    found = AUTO.half_width(sll.Call("comparison", math.inf, lambda: d))
    call = sll.Call("comparison", math.inf, lambda: d)
    least, most = (quantile(call.distances, share) for share in (0.02, 0.75))
    assert found == min(max(1.0, least), most)


def test_auto_is_the_straight_through_estimator_for_rounding():
    x = torch.linspace(-3, 3, 50)
    with sll.linearize("auto", forward="hard"):
        y, g = gradients(lambda x: torch.round(x / 0.3) * 0.3, x)
    assert torch.equal(y, torch.round(x / 0.3) * 0.3)
    torch.testing.assert_close(g, torch.ones(50))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("f", ["sign", "gt", "round", "remainder", "argmax"])
def test_vmap_is_a_loop(f, policy):
    ops = {
        "sign": torch.sign,
        "gt": lambda x: (x > 0.3) * x,
        "round": torch.round,
        "remainder": lambda x: x % 0.7,
        "argmax": lambda x: (x.argmax() == torch.arange(6)) * torch.arange(6.0),
    }
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    region = sll.linearize(POLICIES[policy]())
    with region:
        g = grad(lambda v: (ops[f](v) * torch.arange(1, 7)).sum())
        torch.testing.assert_close(vmap(g)(x), torch.stack([g(v) for v in x]))
    assert all(used.smallest <= used.largest < math.inf for used in region.report().eps.values())


# Each graph takes seconds, and so does what is compiled again for another size.
BOTH_SIZES = [("auto", "headline"), ("coverage", "quantize_int8")]
ONE_SIZE = [("auto", "vote"), ("coverage", "mod_sign"), ("anneal", "headline"), ("anneal a share", "headline")]
ONE_SIZE += [("auto", "quantize_int8")]


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
@pytest.mark.parametrize("policy, name", BOTH_SIZES + ONE_SIZE)
def test_compiled(policy, name):
    forward = "straight-through" if name in ("quantize_int8", "vote") else "linear"
    torch._dynamo.reset()
    f = PROGRAMS[name]
    compiled = torch.compile(lambda x: f(x), fullgraph=True, backend="aot_eager")
    with sll.linearize(POLICIES[policy](), forward=forward):
        larger_than_a_sample = torch.linspace(-2.1, 2.4, 2500, dtype=torch.float64)
        for x in (X, larger_than_a_sample) if (policy, name) in BOTH_SIZES else (larger_than_a_sample,):
            torch.testing.assert_close(gradients(compiled, x), gradients(f, x), rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")
def test_annealing_does_not_compile_again():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x: torch.sign(x), fullgraph=True, backend=counter)
    eps = sll.Anneal(2.0, 0.1, 20)
    for _ in range(20):
        with sll.linearize(eps):
            torch.testing.assert_close(gradients(compiled, X), gradients(torch.sign, X))
        eps.step()
    assert counter.frame_count <= 2


@pytest.mark.parametrize("policy", POLICIES)
def test_explicit_functions_take_policies(policy):
    x = torch.linspace(-2.4, 2.4, 15)
    eps = POLICIES[policy]()
    for f in (
        sll.heaviside, sll.sign, sll.round, sll.floor, sll.ceil, sll.trunc, sll.threshold, sll.argmax, sll.argmin,
        sll.rank, lambda x, **k: sll.topk_mask(x, 3, **k),
    ):  # fmt: skip
        y, g = gradients(lambda x, f=f: f(x, eps=eps) * torch.arange(15.0), x)
        assert y.shape == x.shape and y.dtype == x.dtype and g.abs().sum() > 0 and g.isfinite().all()
    forward = "linear"
    assert sll.sign(x, eps).eq(sll.sign(x, eps, forward=forward)).all()
    assert torch.equal(sll.sign(x, eps, forward="linear"), sll.sign(x, _asked(eps, "comparison", x)))
    assert torch.equal(sll.argmax(x, eps=eps, forward="linear"), sll.argmax(x, eps=_asked(eps, "choice", leads(x))))
    assert torch.equal(sll.rank(x, eps=eps, forward="linear"), sll.rank(x, eps=_asked(eps, "order", pairs(x))))
    assert torch.equal(
        sll.topk_mask(x, 3, eps=eps, forward="linear"), sll.topk_mask(x, 3, eps=_asked(eps, "subset", from_last(x, 3)))
    )


def _asked(eps, kind, distances):
    return float(Width(sll.eps.checked(eps), kind).at(lambda: distances))


def test_auto_rounds_wherever_it_is_written():
    """The band of a step is the whole step, where a ramp is the identity: hard values are the default."""
    x = torch.tensor([0.2, 0.4, 0.9, 1.3], requires_grad=True)
    assert torch.equal(sll.round(x, eps="auto"), torch.round(x))
    torch.testing.assert_close(sll.round(x, eps="auto", forward="linear"), x)
    assert not torch.equal(sll.round(x, eps=0.3), torch.round(x))
    with sll.linearize({"default": 0.1, "round": "auto"}):
        assert torch.equal(torch.round(x), torch.round(x.detach()))


def test_policies_are_not_asked_about_nothing():
    with sll.linearize(_Returns(math.nan)):
        assert torch.sign(torch.empty(0, requires_grad=True)).shape == (0,)


def test_mappings_may_hold_policies():
    x = torch.tensor([-2.0, 0.25, 1.0]).requires_grad_()
    region = sll.linearize({"default": "auto", "sign": 4.0, "round": sll.Coverage(1.0)})
    with region:
        (g,) = torch.autograd.grad(torch.sign(x).sum(), x)
        torch.round(x)
        mask = x > 3.0
    assert mask.dtype == torch.bool
    assert g.tolist() == [0.25] * 3
    assert {site.op for site in region.report().eps} == {"round"}  # a fixed one is not noted, nor a mask nobody reads


def test_report_counts_calls_at_their_lines():
    x = torch.randn(20).requires_grad_()
    region = sll.linearize(sll.Coverage(0.5))
    with region:
        for k in range(3):
            mask = x > k
            mask.float()
            torch.round(x)
    used = {site.op: use for site, use in region.report().eps.items()}
    assert used["gt"].calls == used["round"].calls == 3
    assert used["gt"].smallest < used["gt"].largest
    lines = {site.op: site.line for site in region.report().eps}
    assert lines["round"] == lines["gt"] + 2  # where the comparison is, not where its mask is used


# --- the policies themselves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["geometric", "linear", "cosine"])
def test_anneal(kind):
    eps = sll.Anneal(1.0, 0.01, 4, kind)
    values = []
    for _ in range(7):
        values.append(eps.value)
        eps.step()
    assert values[0] == 1.0 and values[4:] == [0.01] * 3
    assert values[:5] == sorted(values[:5], reverse=True)
    middle = {"geometric": 0.1, "linear": 0.505, "cosine": 0.505}[kind]
    assert values[2] == pytest.approx(middle)
    quarter = {"geometric": 1 / math.sqrt(10), "linear": 0.7525, "cosine": 0.505 + 0.495 * math.sqrt(0.5)}[kind]
    assert values[1] == pytest.approx(quarter)


def test_anneal_goes_on_from_its_state():
    one, other = sll.Anneal(1.0, 0.01, 4), sll.Anneal(1.0, 0.01, 4)
    one.step()
    one.step()
    other.load_state_dict(one.state_dict())
    assert other.value == one.value == pytest.approx(0.1)
    with sll.linearize(other):
        assert gradients(torch.sign, torch.zeros(1))[1].item() == pytest.approx(10)


def test_anneal_rises_as_well():
    eps = sll.Anneal(sll.Coverage(0.1), sll.Coverage(1.0), 1)
    eps.step()
    with sll.linearize(eps):
        assert (gradients(torch.sign, X)[1] != 0).all()


def test_a_policy_of_ones_own():
    seen: list[tuple[str, float, int]] = []

    class Mine:
        def half_width(self, call: Call, /):
            seen.append((call.kind, call.limit, len(call.distances)))
            return torch.tensor(0.25)

    assert isinstance(Mine(), sll.Policy)
    x = torch.tensor([-0.2, 0.1, 0.4]).requires_grad_()
    with sll.linearize(Mine()):
        (g,) = torch.autograd.grad(torch.sign(x).sum(), x)
        torch.round(x), torch.round(x, decimals=1), x % 3
        (x.argmax() == 0).float(), x.argsort() * x.detach(), (x.topk(1).indices * 1.0)
    assert g.tolist() == [4.0, 4.0, 0.0]
    assert [s[0] for s in seen] == ["comparison", "step", "step", "remainder", "choice", "order", "subset"]
    assert [s[1] for s in seen] == [math.inf, 0.5, 0.05, 1.5, math.inf, math.inf, math.inf]


class _Returns:
    def __init__(self, value):
        self.value = value

    def half_width(self, call):
        return self.value


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: sll.Coverage(0), ValueError, "share must be positive"),
        (lambda: sll.Coverage(1.5), ValueError, "share must be at most 1"),
        (lambda: sll.Coverage("0.5"), TypeError, "share must be a positive float"),
        (lambda: sll.Anneal(1.0, sll.Coverage(0.5), 3), TypeError, "both"),
        (lambda: sll.Anneal(-1.0, 0.5, 3), ValueError, "start"),
        (lambda: sll.Anneal(1.0, 0.0, 3), ValueError, "end"),
        (lambda: sll.Anneal(1.0, 0.5, 0), ValueError, "steps must be at least 1"),
        (lambda: sll.Anneal(1.0, 0.5, 2.5), TypeError, "steps must be an integer"),
        (lambda: sll.Anneal(1.0, 0.5, 3, "exponential"), ValueError, "kind must be one of"),
        (lambda: sll.Anneal(1.0, 0.5, 3).load_state_dict({}), KeyError, "state_dict"),
        (lambda: sll.Anneal(1.0, 0.5, 3).load_state_dict({"done": "2"}), ValueError, "number of steps"),
        (lambda: sll.Anneal(sll.Coverage, sll.Coverage, 3), TypeError, "start must be a float or a share"),
        (lambda: sll.sign(torch.ones(2), _Returns(math.inf)), ValueError, "finite unless call.limit is, got inf"),
        (lambda: sll.linearize(sll.Coverage), TypeError, "the class Coverage; make one"),
        (lambda: sll.linearize("Auto"), ValueError, "'Auto'"),
        (lambda: sll.linearize({"default": "auto", "round": "wide"}), ValueError, r"eps\['round'\]"),
        (lambda: sll.linearize(object()), TypeError, "half_width"),
        (lambda: sll.sign(torch.ones(2), "wide"), ValueError, "eps"),
        (
            lambda: sll.sign(torch.ones(2), _Returns(0.0)),
            ValueError,
            "a positive half-width, .* got 0.0 for a comparison",
        ),
        (lambda: sll.sign(torch.ones(2), _Returns(math.nan)), ValueError, "got nan"),
        (lambda: sll.sign(torch.ones(2), _Returns(torch.ones(2))), ValueError, r"one number, got shape \(2,\)"),
    ],
)
def test_bad_input_is_named(make, error, says):
    with pytest.raises(error, match=says):
        make()


# --- what attackers found --------------------------------------------------------------------------------------------


def test_faked_tensors_leave_nothing_behind():
    from torch._subclasses.fake_tensor import FakeTensorMode

    for n in (5003, 777):
        with FakeTensorMode(), sll.linearize("auto"):
            torch.sign(torch.randn(n, requires_grad=True)).sum().backward()
        with sll.linearize("auto"):
            torch.sign(torch.randn(n, requires_grad=True)).sum().backward()
        with FakeTensorMode(), sll.linearize("auto"):
            torch.sign(torch.randn(n, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("mode", ["fake", "symbolic", "real"])
def test_traced_by_make_fx(mode):
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    f = lambda x: sll.sign(x, "auto")
    torch.testing.assert_close(make_fx(f, tracing_mode=mode)(x)(x), f(x))


def test_report_of_nested_transforms():
    x = torch.randn(50)
    region = sll.linearize("auto")
    with region:
        for _ in range(2):
            torch.func.hessian(lambda x: (torch.sign(x) * x).sum())(x)
            torch.func.jvp(torch.sign, (x,), (x,))
            vmap(grad(lambda v: torch.sign(v)))(x)
    for used in region.report().eps.values():
        assert 0 < used.smallest <= used.largest < 10


def test_one_padded_row_does_not_take_the_gradient_of_all():
    scores = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    pad = torch.zeros(8, 5, dtype=torch.bool)
    pad[7, 1:] = True
    table = torch.arange(5.0)
    norms = []
    for mask in (pad, torch.zeros_like(pad)):
        for value in (-1e9, torch.finfo(torch.float32).min, -math.inf):
            s = scores.clone().requires_grad_()
            with sll.linearize("auto"):
                table[s.masked_fill(mask, value).argmax(1)].sum().backward()
            norms.append(s.grad[:7].abs().mean().item())
    assert min(norms) > 0.5 * max(norms) > 0


def test_orders_are_reported_where_they_are_made():
    x = torch.randn(20).requires_grad_()
    region = sll.linearize("auto")
    with region:
        chosen = x.topk(3).indices
        order = x.argsort()
        ((chosen * 1.0).sum() + (order * x.detach()).sum()).backward()  # (their widths are needed there)
    lines = {site.op: site.line for site in region.report().eps}
    assert lines["sort"] == lines["topk"] + 1


@pytest.mark.parametrize("n", [10, 30, 50, 700, 1000])
def test_shares_are_exact(n):
    x = torch.arange(1.0, n + 1).requires_grad_()
    for percent in range(1, 101):
        with sll.linearize(sll.Coverage(percent / 100)):
            (g,) = torch.autograd.grad(torch.sign(x).sum(), x)
        assert (g != 0).sum() == -(-percent * n // 100), percent


@pytest.mark.parametrize("answer", [None, True, "wide"])
def test_answers_that_are_no_widths(answer):
    x = torch.randn(5, requires_grad=True)
    with sll.linearize(_Returns(answer)), pytest.raises(ValueError, match="half_width must return a positive"):
        torch.sign(x)
