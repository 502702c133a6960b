"""No discrete torch function is forgotten: every one has a rule, or a stated reason to be left alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.overrides import get_overridable_functions

import sll
from sll._carry.outcomes import RULES
from sll._carry.outcomes.registry import DECIDES_BY_NAME, DISCRETE
from sll._rules import table
from sll._rules.index import LEFT_ALONE, SOURCES, spellings

# What issue and design name. A method, a function and an in-place form count one by one.
KNOWN = """
    sign sgn round floor ceil trunc fix frac heaviside hardshrink threshold signbit isclose copysign gt ge lt le
    greater greater_equal less less_equal eq ne not_equal __eq__ __ne__ logical_and logical_or logical_xor
    logical_not bitwise_and bitwise_or bitwise_xor bitwise_not __and__ __or__ __xor__ __invert__ __rand__
    __ror__ __rxor__ any all bool long int short char byte to type type_as floor_divide __floordiv__
    __rfloordiv__ div divide remainder __mod__ __rmod__ fmod where masked_fill masked_scatter __setitem__
    __getitem__ index_select gather take take_along_dim embedding one_hot sum mean count_nonzero cumsum prod
    bincount clamp clip minimum maximum sign_ sgn_ round_ floor_ ceil_ trunc_ fix_ frac_ heaviside_ gt_ ge_ lt_
    le_ eq_ ne_ logical_and_ logical_or_ logical_xor_ logical_not_ bitwise_and_ bitwise_or_ bitwise_xor_
    bitwise_not_ __iand__ __ior__ __ixor__ floor_divide_ remainder_ fmod_ div_ masked_fill_ masked_scatter_
    copy_ clamp_ threshold_
""".split()


@pytest.mark.parametrize("name", KNOWN)
def test_known_discrete_functions_have_rules(name):
    found = spellings(name)
    assert found, f"torch has no {name}"
    for func in found:
        assert func in RULES, f"{func} has no rule"


def test_dynamo_is_told_what_decides_by_its_name():
    assert {func.__name__ for func in DISCRETE} == DECIDES_BY_NAME


def overridable():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for namespace, functions in get_overridable_functions().items():
            for func in functions:
                name = getattr(func, "__name__", "")
                if name not in ("__get__", "__set__", "__delete__", ""):
                    yield namespace, name, func


def outputs(func, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = func(*args)
    results = result if isinstance(result, (tuple, list)) else (result,)
    return [r for r in results if isinstance(r, torch.Tensor)]


def is_discrete(func, *args):
    """Whether the function of float tensors that require grad is flat around random points: no gradient, or zero."""
    x = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
    for out in outputs(func, *args):
        if out.dtype in (torch.bool, torch.int64, torch.int32, torch.uint8, torch.int8):
            return True
        if out.is_floating_point() and out.numel() and not out.requires_grad:
            changed = [a.detach() * 1.37 + 0.1 if isinstance(a, torch.Tensor) else a for a in args]
            if any(not torch.equal(out, o) for o in outputs(func, *changed)):
                return True
        if out.requires_grad and out.is_floating_point():
            try:
                grads = torch.autograd.grad((out * torch.rand_like(out)).sum(), x, allow_unused=True)
            except RuntimeError:  # "derivative for … is not implemented"
                return True
            if all(g is None or not g.any() for g in grads):
                return True
    return False


def probes():
    g = torch.Generator().manual_seed(0)

    def x(*shape):
        return (torch.rand(*shape, generator=g) * 3 + 0.3).requires_grad_()

    def u(*shape):
        return (torch.rand(*shape, generator=g) * 0.8 + 0.1).requires_grad_()

    square = x(3, 3)
    return [
        (x(5),), (u(5),), (square,), (x(5), x(5)), (u(5), u(5)), (x(5), 0.7), (x(5), 2), (0.7, x(5)), (square, x(3, 3)),
        (x(5), x(5), x(5)), (u(5), 0.2, 0.9), (square, 1), (square, 1, 1), (x(2, 3, 4),), (x(1, 2, 4, 4), 2),
        (x(1, 2, 8), 2),
    ]  # fmt: skip


# Not discrete, though the probe cannot tell. Each with its reason.
NOT_DISCRETE = {
    "constant by definition, or cuts the graph on purpose": "zero_ fill_ empty_like set_ detach detach_ detach_copy",
    "one of several outputs (pivots, ranks, signs, indices of a factorization) is not differentiable": """
        linalg_cholesky_ex linalg_inv_ex linalg_ldl_factor linalg_ldl_factor_ex linalg_lstsq linalg_lu_factor
        linalg_lu_factor_ex linalg_lu linalg_matrix_rank linalg_solve_ex linalg_svd linalg_eigh linalg_qr
        linalg_slogdet linalg_cond linalg_pinv lobpcg lu pca_lowrank svd_lowrank triangular_solve geqrf pinverse
        qr svd slogdet""",
    "continuous, but torch has no derivative for it": """
        airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 chebyshev_polynomial_t chebyshev_polynomial_u
        chebyshev_polynomial_v chebyshev_polynomial_w gammainc gammaincc igamma igammac hermite_polynomial_h
        hermite_polynomial_he laguerre_polynomial_l legendre_polynomial_p modified_bessel_i0 modified_bessel_i1
        modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1
        shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
        shifted_chebyshev_polynomial_w spherical_bessel_j0 zeta""",
    "a loss whose hinge is closed at the probed points": """
        hinge_embedding_loss triplet_margin_loss triplet_margin_with_distance_loss""",
    "constant or NaN at some of the probed points": "corrcoef logdet std_mean var_mean",
    "storage formats": """
        to_sparse to_mkldnn fbgemm_linear_quantize_weight fbgemm_pack_gemm_matrix_fp16 native_channel_shuffle""",
}
_EXCUSED = {name for names in NOT_DISCRETE.values() for name in names.split()}


def test_every_overridable_function_that_looks_discrete_is_accounted_for():
    missing = {}
    probed = 0
    for namespace, name, func in overridable():
        base = name.strip("_") if name.startswith("__") else name.removeprefix("special_")
        names = {name, base, base.rstrip("_"), name.rstrip("_")}
        if name.startswith("_") and not name.startswith("__"):
            continue  # private
        for args in probes():
            fresh = [a.detach().clone().requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
            in_place = name.endswith("_") and not name.startswith("__")
            try:
                discrete = is_discrete((lambda first, *rest: func(first.clone(), *rest)) if in_place else func, *fresh)  # noqa: B023
            except Exception:
                continue  # not a function of these arguments
            probed += 1
            if discrete and func not in RULES and not names & (LEFT_ALONE.keys() | _EXCUSED):
                missing.setdefault(name, getattr(namespace, "__name__", str(namespace)))
                break
    assert probed > 1500
    assert not missing, f"discrete, but neither handled nor left alone with a reason: {missing}"


def test_reasons_are_not_stale():
    """What is left alone exists, and what has a source rule is not listed as left alone."""
    for name, reason in LEFT_ALONE.items():
        assert reason
        assert name not in SOURCES


def test_every_name_has_one_row():
    names = [name for row in table.ROWS for name in row.names.split()]
    assert len(names) == len(set(names))


def test_families_and_facts_are_known_and_used():
    families, facts = zip(*((row.family, row.facts.split()) for row in table.ROWS))
    assert set(families) == set(table.FAMILIES)
    assert {fact for found in facts for fact in found} == set(table.FACTS)


def test_every_op_says_where_its_boundaries_are():
    said = [row.op for row in table.ROWS if row.boundaries]
    assert len(said) == len(set(said)) and set(said) == set(sll.OPS)
