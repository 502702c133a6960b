"""Every function of torch is called with a handful of arguments: what jumps has a gradient in a region, is reported, or
stands here or in the table with its reason. `tests/probe.py` does the looking.
"""

from __future__ import annotations

import contextlib
import warnings

import pytest
import torch

import probe
from sll._rules.index import LEFT_ALONE

EXCUSED = {
    "random: the draw is not a function of its probability": "gumbel_softmax",
    "memory that nobody has written to": "empty_like new_empty new",
    "signs and pivots of a factorization, where it is not unique": """
        geqrf lu pca_lowrank qr slogdet svd svd_lowrank eigh eig lu_factor lu_factor_ex ldl_factor ldl_factor_ex
        matrix_rank lstsq""",
    "the degree is a number of terms": """
        chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v chebyshev_polynomial_w
        shifted_chebyshev_polynomial_t shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
        shifted_chebyshev_polynomial_w hermite_polynomial_h hermite_polynomial_he laguerre_polynomial_l
        legendre_polynomial_p""",
    "outside of what it is defined for": "logit",
    "a direction, of a vector with one element": "normalize",
    "a check sum of bits": "hash_tensor",
    "rounds as every number of that type is rounded": "half bfloat16",
    "where a matrix is no longer positive definite": "cholesky_ex",
    "cuts the graph on purpose": "detach detach_",
    "keeps what it is given as a number": "new_tensor tensor",
    "a selection with another number of elements": "argwhere nonzero",
}
"""Functions that are no row of the table's `left_alone`, by reason."""
REASONS = {name: reason for reason, names in EXCUSED.items() for name in names.split()}


def excused(name):
    bare = name.rpartition(".")[2]
    return bare in REASONS or bare in LEFT_ALONE


def found(cases):
    """The functions whose results jump, each with what becomes of that in each mode."""
    seen, table = set(), {}
    for case in cases:
        with contextlib.suppress(Exception):  # (not a function of these arguments)
            case.call(case.at(0.0))
            for result, t in probe.jumping(case).items():
                if (case.name, result) not in seen and not excused(case.name):
                    seen.add((case.name, result))
                    becomes = [probe.becomes(case, result, t, forward) for forward in probe.MODES]
                    table.setdefault(case.name, []).extend(becomes)
    return table


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
def test_options_that_decide():
    table = found(probe.with_options())
    assert len(table) >= 17
    assert {name: becomes for name, becomes in table.items() if set(becomes) != {"followed"}} == {}


@pytest.mark.slow
def test_whatever_jumps():
    table = found(probe.cases())
    assert len(table) > 60
    assert {name: becomes for name, becomes in table.items() if "nothing" in becomes} == {}


@pytest.mark.slow
def test_whatever_a_decision_goes_into():
    lost, many = {}, 0
    for case in probe.passing():
        try:
            relevant = probe.matters(case)
        except Exception:  # not a function of these arguments
            continue
        if relevant and not excused(case.name):
            many += 1
            becomes = [probe.passes(case, forward) for forward in probe.MODES]
            if "nothing" in becomes:
                lost.setdefault(case.name, becomes)
    assert many > 1000 and lost == {}


def test_the_probe_finds_what_is_left_out():
    """A jump without a rule is found, and so is a mask that nobody follows."""
    hidden = probe.Case("hidden", lambda x: torch.from_numpy(x.detach().numpy() > 0), *[(x,) for x in probe._x(5)])
    ((result, t),) = probe.jumping(hidden).items()
    assert {probe.becomes(hidden, result, t, forward) for forward in probe.MODES} == {"nothing"}
    silent = probe.Passing("silent", lambda m: m.detach().double(), lambda x: (x > 0,))
    assert probe.matters(silent) and {probe.passes(silent, forward) for forward in probe.MODES} == {"nothing"}
