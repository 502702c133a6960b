from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch

import compatibility
import errors
import sll
from sll._carry.flips import engine as flips_engine
from sll._carry.outcomes import registry
from sll._carry.outcomes.sources import STEPS
from sll._carry.shadows import engine as shadows_engine
from sll._mode.threads import THREAD as _THREAD
from sll._ops import fused
from sll._rules import index, table

sll.linearize(
    forward="hard"
)  # the names and the engines that are imported when they are wanted: rules are counted below
torch.set_num_threads(1)  # two workers share two cores


SLOW = {
    "test_compile.py",
    "test_compile_values.py",
    "test_deployment.py",
    "test_distributed.py",
    "test_evidence.py",
    "test_gallery_one.py",
    "test_gallery_two.py",
    "test_order_line_integral.py",
}
"""Files that compile much or train: `make test` leaves them out."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def no_region_survives():
    """Every test leaves the mode stack, our own books, the default dtype and the grad mode as it found them."""

    def state():
        modes = torch.overrides._len_torch_function_stack()
        return modes, len(_THREAD.entered), _THREAD.at_work, torch.get_default_dtype(), torch.is_grad_enabled()

    before = state()
    yield
    assert state() == before == (0, 0, None, torch.float32, True)


BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def perf(monkeypatch):
    """`benchmarks/perf` can be imported, and is gone afterwards: its `programs` are not those of the tests."""
    names = {path.stem for folder in ("perf", "evidence") for path in (BENCHMARKS / folder).glob("[!_]*.py")}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(BENCHMARKS / "perf"))
    yield
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def loops_everywhere(monkeypatch):
    """The loops of numba from the first element on, which are left to larger tensors otherwise."""
    pytest.importorskip("numba")
    monkeypatch.setattr(fused, "LEAST", 1)


@pytest.fixture
def rules_as_they_were():
    """For tests that add some: others count what is in the registry. Asked, it says what is in all tables."""
    tables = (registry.RULES, registry.DECIDES_BY_NAME)
    tables += (registry.DISCRETE, registry.ALWAYS, index.SOURCES, index.ROW_OF, index.OP_OF)
    for rules in (shadows_engine._ALL, flips_engine.RULES):
        tables += (rules.of, rules.always)
    tables += (STEPS,)

    def now():
        return [found.copy() for found in tables], list(table.ROWS)

    before, rows = now()
    yield now
    for found, kept in zip(tables, before):
        found.clear()
        found.update(kept)
    table.ROWS[:] = rows


@pytest.fixture(autouse=True)
def a_lost_gradient_is_an_error(recwarn):
    """No test loses a gradient without saying so."""
    yield
    lost = [str(w.message) for w in recwarn.list if issubclass(w.category, sll.LostGradientWarning)]
    assert not lost, lost


# --- docs/compatibility.md -----------------------------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption("--compatibility", metavar="FILE", help="write the rows of the tests that passed into FILE")
    parser.addoption(
        "--errors", metavar="FILE", help="write all errors and warnings into FILE and errors/, before the tests"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "compatibility(area, what, verdict, note): a row of docs/compatibility.md")


@pytest.fixture(autouse=True)
def rows_of_the_table(request, record_property):
    for entry in compatibility.rows_of(request.node):
        record_property("compatibility", list(entry))


def _test(nodeid: str) -> str:
    return nodeid.split("[")[0].removeprefix("tests/")


class _Table:
    """Collects what passed, from all workers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[tuple[compatibility.Row, str]] = []
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report):
        test = _test(report.nodeid)
        if report.failed:
            self.failed.add(test)
        elif report.when == "call" and report.passed:
            rows = (compatibility.Row(*value) for name, value in report.user_properties if name == "compatibility")
            self.found.extend((entry, test) for entry in rows)

    def pytest_sessionfinish(self):
        rows = [(entry, test) for entry, test in self.found if test not in self.failed]
        self.path.write_text(compatibility.replaced(self.path.read_text(), compatibility.table(rows)))


def pytest_collection_finish(session):
    """Modules and eight thousand tests stay: the collections that tests ask for need not look at them each time."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart(session):
    path = session.config.getoption("--compatibility")
    if path and not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(_Table(Path(path)))
    path = session.config.getoption("--errors")
    if path and not hasattr(session.config, "workerinput"):
        errors.write(Path(path))


@pytest.fixture
def collected_rows(request):
    """Rows and tests of the whole suite; skips if only a part of it was collected."""
    items = request.session.items
    files = {Path(str(item.path)) for item in items}
    if not set(Path(__file__).parent.rglob("test_*.py")) <= files or request.config.option.keyword:
        pytest.skip("only a part of the suite was collected")
    return [(entry, _test(item.nodeid)) for item in items for entry in compatibility.rows_of(item)]
