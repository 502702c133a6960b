"""What torch refuses a region refuses, and it runs what torch runs: programs are deployed without one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import sll

MODES = ["straight-through", "hard", "linear"]
OPERANDS = {
    "mask": lambda x: x > 0,
    "integers": lambda x: x.long(),
    "bytes": lambda x: x.to(torch.int8),
    "places": lambda x: x.argmax(1),
    "counts": lambda x: (x > 0).sum(1),
}


def grid():
    return torch.linspace(-1, 1, 9).reshape(3, 3).requires_grad_()


FUNCTIONS = {
    "x@m": lambda x, v, m: x @ m,
    "m@x": lambda x, v, m: m @ x,
    "mm": lambda x, v, m: torch.mm(x, m),
    "linear": lambda x, v, m: F.linear(x, m),
    "einsum": lambda x, v, m: torch.einsum("ij,jk->ik", x, m),
    "dot": lambda x, v, m: torch.dot(v, m),
    "mv": lambda x, v, m: torch.mv(x, m),
    "outer": lambda x, v, m: torch.outer(v, m),
    "bmm": lambda x, v, m: torch.bmm(x[None], m[None]),
    "tensordot": lambda x, v, m: torch.tensordot(x, m, 1),
    "addmm": lambda x, v, m: torch.addmm(x, x, m),
    "baddbmm": lambda x, v, m: torch.baddbmm(x[None], x[None], m[None]),
    "addmv": lambda x, v, m: torch.addmv(v, x, m),
    "mean": lambda x, v, m: m.mean(),
    "sub": lambda x, v, m: x - m,
    "rsub": lambda x, v, m: 1.0 - m,
    "neg": lambda x, v, m: -m,
    "std": lambda x, v, m: m.std(),
    "softmax": lambda x, v, m: m.softmax(0),
    "lerp": lambda x, v, m: torch.lerp(x, x, m),
    "lerp2": lambda x, v, m: torch.lerp(m, x, 0.5),
    "addcmul": lambda x, v, m: torch.addcmul(x, m, m),
    "addcdiv": lambda x, v, m: torch.addcdiv(x, x, m),
    "clamp": lambda x, v, m: x.clamp(min=m),
    "max": lambda x, v, m: torch.maximum(x, m),
    "pow": lambda x, v, m: x**m,
    "pow2": lambda x, v, m: m**2.0,
    "exp": lambda x, v, m: m.exp(),
    "relu": lambda x, v, m: torch.relu(m),
    "abs": lambda x, v, m: m.abs(),
    "sign": lambda x, v, m: m.sign(),
    "floor": lambda x, v, m: m.floor(),
    "round": lambda x, v, m: m.round(),
    "cumsum": lambda x, v, m: m.cumsum(0),
    "prod": lambda x, v, m: m.prod(),
    "diff": lambda x, v, m: m.diff(dim=0),
    "norm": lambda x, v, m: m.norm(),
    "var": lambda x, v, m: m.var(),
    "mse": lambda x, v, m: F.mse_loss(m, x),
    "bce": lambda x, v, m: F.binary_cross_entropy_with_logits(x, m),
    "ce": lambda x, v, m: F.cross_entropy(x, m),
    "nll": lambda x, v, m: F.nll_loss(x, m),
    "l1": lambda x, v, m: F.l1_loss(m, x),
    "conv": lambda x, v, m: F.conv1d(x[None], m[None]),
    "cat": lambda x, v, m: torch.cat([x, m]),
    "stack": lambda x, v, m: torch.stack([x, m]),
    "where": lambda x, v, m: torch.where(m, x, x),
    "where2": lambda x, v, m: torch.where(x > 0, m, x),
    "mfill": lambda x, v, m: x.masked_fill(m, 1.0),
    "mfill2": lambda x, v, m: m.masked_fill(x > 0, 1.5),
    "idx": lambda x, v, m: x[m],
    "gather": lambda x, v, m: x.gather(1, m),
    "iselect": lambda x, v, m: x.index_select(0, m),
    "onehot": lambda x, v, m: F.one_hot(m),
    "emb": lambda x, v, m: F.embedding(m, x),
    "iadd": lambda x, v, m: x.clone().add_(m),
    "isub": lambda x, v, m: x.clone().sub_(m),
    "madd": lambda x, v, m: m.clone().add_(x),
    "mmul": lambda x, v, m: m.clone().mul_(x),
    "scatter": lambda x, v, m: x.scatter(1, m, 1.0),
    "scatter_add": lambda x, v, m: x.scatter_add(1, m, x),
    "and": lambda x, v, m: m & x,
    "and2": lambda x, v, m: m & (x > 0),
    "not": lambda x, v, m: ~m,
    "shift": lambda x, v, m: m << 1,
    "idiv": lambda x, v, m: m // 2,
    "mod": lambda x, v, m: m % 2,
    "sqrt": lambda x, v, m: m.sqrt(),
    "median": lambda x, v, m: m.median(),
    "sort": lambda x, v, m: m.sort(),
    "topk": lambda x, v, m: m.topk(1),
    "argmax": lambda x, v, m: m.argmax(),
    "cummax": lambda x, v, m: m.cummax(0),
    "quantile": lambda x, v, m: m.quantile(0.5),
    "logical": lambda x, v, m: torch.logical_and(m, x),
    "allf": lambda x, v, m: m.all(),
    "bincount": lambda x, v, m: m.bincount(),
    "cdist": lambda x, v, m: torch.cdist(x, m),
    "cos": lambda x, v, m: F.cosine_similarity(x, m),
    "normz": lambda x, v, m: F.normalize(m),
    "lnorm": lambda x, v, m: F.layer_norm(m, (3,)),
    "dropout": lambda x, v, m: F.dropout(m, 0.5),
    "gelu": lambda x, v, m: F.gelu(m),
    "sigmoid": lambda x, v, m: m.sigmoid(),
    "fmin": lambda x, v, m: torch.fmin(m, x),
    "isin": lambda x, v, m: torch.isin(m, m),
    "repeat": lambda x, v, m: torch.repeat_interleave(x, m, dim=0),
    "setitem": lambda x, v, m: x.clone().__setitem__(m, 1.0),
    "copy": lambda x, v, m: m.clone().copy_(x),
    "dist": lambda x, v, m: torch.dist(x, m),
    "cross": lambda x, v, m: torch.linalg.cross(x, m),
    "kron": lambda x, v, m: torch.kron(x, m),
    "trace": lambda x, v, m: m.trace(),
    "det": lambda x, v, m: m.det(),
    "logsumexp": lambda x, v, m: m.logsumexp(0),
    "histc": lambda x, v, m: m.histc(3),
    "bucketize": lambda x, v, m: torch.bucketize(m, torch.tensor([0, 1])),
    "hypot": lambda x, v, m: torch.hypot(x, m),
    "xlogy": lambda x, v, m: torch.xlogy(x, m),
    "addr": lambda x, v, m: torch.addr(x, v, m),
    "renorm": lambda x, v, m: m.renorm(2, 0, 1.0),
    "glu": lambda x, v, m: F.glu(m[:, :2]),
    "pad": lambda x, v, m: F.pad(m, (1, 1)),
    "interp": lambda x, v, m: F.interpolate(m[None].float(), scale_factor=2),
    "avgpool": lambda x, v, m: F.avg_pool1d(m[None], 2),
    "maxpool": lambda x, v, m: F.max_pool1d(m[None], 2),
    "unfold": lambda x, v, m: F.unfold(m[None, None], 2),
}


def outcome(f, operand):
    x = grid()
    try:
        f(x, torch.linspace(-1, 1, 3, requires_grad=True), operand(x))
    except (AssertionError, NotImplementedError) as error:
        return type(error).__name__
    except Exception:
        return "refused"
    return "runs"


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("operand", OPERANDS)
def test_same_with_and_without_a_region(operand, forward):
    for name, f in FUNCTIONS.items():
        plain = outcome(f, OPERANDS[operand])
        with sll.linearize(0.2, forward=forward, on_lost="ignore"):
            assert outcome(f, OPERANDS[operand]) == plain, name
