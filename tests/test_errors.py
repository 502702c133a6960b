"""`docs/errors.md` is what the cases of `errors.py` say, and there is nothing else to say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import errors
import sll

DOCS = Path(__file__).parent.parent / "docs"
WRITE = "run: python -m pytest tests/test_errors.py --errors docs/errors.md"

pytestmark = pytest.mark.usefixtures("rules_as_they_were")  # some cases add one

old = pytest.mark.skipif(torch.__version__ < (2, 10), reason="older Dynamo does not trace these modes")


def cases(which=lambda case: True):
    return [
        pytest.param(case, id=case.title, marks=old if case.compiles or case.recent else ())
        for case in errors.CASES
        if which(case)
    ]


@pytest.mark.parametrize("case", cases())
def test_is_on_the_page_as_it_is(case):
    page = (DOCS / errors.path_of(case.group)).read_text(encoding="utf-8")
    assert errors.sections(page).get(case.title) == errors.section(case), WRITE


@pytest.mark.parametrize("case", cases(lambda case: case.instead))
def test_what_to_write_instead_works(case):
    found, gradient = errors.run_instead(case)
    assert not found, [each.said for each in found]
    if "backward()" in case.instead:
        assert gradient is not None and gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("case", cases())
def test_who_says_it(case):
    ours = any(site.hit(errors.outcome(case)) for site in errors.sites())
    assert ours == (case.group != errors.ITS_OWN)


@old
def test_the_page_holds_nothing_else():
    stored = [DOCS / "errors.md", *(DOCS / "errors").glob("*.md")]
    found = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in stored}
    assert found == errors.pages(), WRITE


@old
def test_every_error_and_warning_has_a_case():
    found = [errors.outcome(case) for case in errors.CASES]
    silent = [str(site) for site in errors.sites() if not any(site.hit(each) for each in found)]
    assert not silent, "write a case into tests/errors.py for\n" + "\n".join(silent)


def test_titles_are_anchors_of_their_own():
    anchors = [errors.anchor(title) for title in (*errors.GROUPS, *(case.title for case in errors.CASES))]
    assert len(set(anchors)) == len(anchors)
    assert not [a for a in anchors if "--" in a or a != a.strip("-")], "GitHub and MkDocs do not agree about those"
    assert {case.group for case in errors.CASES} == set(errors.GROUPS)


@pytest.mark.parametrize(
    "call",
    [
        lambda big: sll.linearize(big),
        lambda big: sll.linearize(only=[big]),
        lambda big: sll.linearize(trace=big),
        lambda big: sll.linearize(0.1)(big),
        lambda big: sll.Anneal(1.0, 0.1, big),
        lambda big: sll.threshold(torch.zeros(2), [big]),
        lambda big: sll.rank(torch.zeros(2), descending=big),
        lambda big: sll.topk_mask(torch.zeros(2), big),
        lambda big: sll.argmax(torch.zeros(2), big),
    ],
)
@pytest.mark.parametrize("big", [torch.zeros(30, 30), list(range(1000))], ids=["tensor", "list"])
def test_messages_stay_short(call, big):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(big)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


SOURCE = """
def f(x):
    if x:
        raise ValueError(
            "x"
        )
    try:
        warnings.warn("y")
    except OSError as error:
        raise
    raise error

class A:
    def __getattr__(self, name):
        raise AttributeError(name)

    def dispatch(self):
        raise NotImplementedError

    def rule(self):
        self.lose("op", [], "why")
        return lost(self, "why")

    def lose(self, op, tensors, why):
        torch._dynamo.graph_break(msg=why)
        self.trace.lose(op, tensors, why)
"""


def test_what_counts_as_saying_something():
    sites = errors.sites_of(SOURCE, "a.py")
    assert [(site.first, site.last) for site in sites] == [(4, 6), (8, 8), (21, 21), (22, 22), (25, 25)]
    raised = errors.Outcome("ValueError: x", frozenset({("a.py", 5)}))
    elsewhere = errors.Outcome("ValueError: x", frozenset({("b.py", 5), ("a.py", 7)}))
    assert [site.hit(raised) for site in sites] == [True, *[False] * 4]
    assert not any(site.hit(elsewhere) for site in sites)
