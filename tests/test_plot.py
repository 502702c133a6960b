"""Pictures show what sll computes: line data read back from the axes, against oracles that know nothing of sll."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

import sll
from sll import CallSite
from sll._reports.report import Report
from sll._reports.rows import Row
from sll.tools import plot

ROOT = Path(__file__).parent.parent


def data(line):
    """x and y of a line."""
    return (torch.as_tensor(numpy.asarray(values), dtype=torch.float64) for values in line.get_data())


def lines(axes):
    return {line.get_label().split("\n")[0]: line for line in axes.lines}


def box(f, x, eps):
    return (f(x + eps) - f(x - eps)) / (2 * eps)


def average(f, x, eps):
    """Of `f` over a window around each x."""
    offsets = eps * ((torch.arange(4000, dtype=torch.float64) + 0.5) / 2000 - 1)
    return f(x[:, None] + offsets).mean(1)


# --- style ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [False, True])
def test_style_puts_the_settings_back(failing):
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 17, "lines.marker": "s"}):
        before = dict(matplotlib.rcParams)
        try:
            with plot.style():
                assert matplotlib.rcParams["lines.marker"] == "None"  # which is not ours to set
                assert matplotlib.rcParams["axes.facecolor"] == "white"
                assert matplotlib.rcParams["font.size"] == 9
                if failing:
                    raise KeyError("from the block")
        except KeyError:
            assert failing
        assert dict(matplotlib.rcParams) == before


def test_pictures_are_dark_on_white_whatever_the_user_has_set(tmp_path):
    with matplotlib.rc_context():
        matplotlib.style.use("dark_background")
        figure = plot.op(torch.sign)
        figure.savefig(tmp_path / "sign.png")
    image = numpy.asarray(Image.open(tmp_path / "sign.png").convert("RGBA"))
    assert (image[..., 3] == 255).all()
    assert (image[0, 0] == 255).all()
    assert (image[..., :3] > 200).mean() > 0.85
    for axes in figure.axes:
        assert to_hex(axes.get_facecolor()) == "#ffffff"
        for text in [axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels(), *axes.get_legend().get_texts()]:
            assert to_hex(text.get_color()) == "#222222"


def test_colors_and_lines_tell_methods_apart():
    assert set(plot.COLORS) == {"plain", "straight_through", "sigmoid", "linear", "hard", "auto", "other"}
    assert len(set(plot.COLORS.values())) == len(plot.COLORS)
    assert set(plot.LINES) == set(plot.COLORS)


# --- compare -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "compare.png"
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with torch.no_grad(), sll.linearize(0.4):  # whatever is on around it
        figure = plot.compare(path, quick=True)
    assert torch.equal(torch.get_rng_state(), state)
    return figure, path


def test_compare_draws_six_panels_and_writes_them(compared):
    figure, path = compared
    assert isinstance(figure, Figure)
    assert [axes.get_title(loc="left")[0] for axes in figure.axes] == list("123456")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 700
    for axes in figure.axes:
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_legend() is not None


def test_compare_draws_averages_over_the_band_and_box_gradients(compared):
    values, slopes, steps, zoom, widths, _ = compared[0].axes
    ramps = [
        (values, "sll, eps = 0.25", torch.sign, 0.25),
        (steps, "sll, eps = 0.15", torch.round, 0.15),
        (zoom, "sll", lambda d: torch.round(d + 0.5), 0.15),
    ]
    ramps += [(widths, label, torch.sign, float(label.split(":")[0].split("=")[1])) for label in lines(widths)]
    assert len(ramps) == 7
    for axes, label, f, eps in ramps:
        x, y = data(lines(axes)[label])
        torch.testing.assert_close(y, average(f, x, eps), rtol=0, atol=2e-3)
    x, y = data(lines(slopes)["sll, eps = 0.25"])
    torch.testing.assert_close(y, box(torch.sign, x, 0.25), rtol=1e-4, atol=0)
    for axes, label, f in (
        (values, "hard sign", torch.sign),
        (slopes, "hard sign", torch.zeros_like),
        (steps, "hard round", torch.round),
        (values, "tanh(x / eps)", lambda x: torch.tanh(x / 0.25)),
        (slopes, "tanh(x / eps)", lambda x: (1 - torch.tanh(x / 0.25) ** 2) / 0.25),
    ):
        x, y = data(lines(axes)[label])
        torch.testing.assert_close(y, f(x), rtol=1e-5, atol=1e-5)


def test_compare_annotates_the_slope_that_it_draws(compared):
    zoom = compared[0].axes[3]
    x, y = data(lines(zoom)["sll"])
    inside = x.abs() < 0.14
    slope = (y[inside].diff() / x[inside].diff()).mean().item()
    assert math.isclose(slope, 1 / 0.3, rel_tol=1e-3)
    assert any(f"slope {slope:.3g}" in text.get_text() for text in zoom.texts)


def test_compare_trains_four_networks_that_start_alike(compared):
    curves = lines(compared[0].axes[5])
    assert len(curves) == 4
    scores = {label: list(data(line))[1] for label, line in curves.items()}
    assert len({y[0].item() for y in scores.values()}) == 1
    ends = {label.split(":")[0]: y[-1].item() for label, y in scores.items()}
    assert len(set(ends.values())) == 4  # no two of them are the same training
    for label, y in scores.items():
        assert f": {y[-1].item():.1f}" in label
        assert y[-1] > y[0] + 10


def test_a_region_trains_what_plain_training_does_not():
    """The second layer of the network of the last panel: sign above it, and no gradient without a region."""
    for _, name, activation, enter in plot._WAYS:
        x, y = plot._spirals(256, torch.Generator().manual_seed(0))
        network = plot._network(torch.Generator().manual_seed(0))
        with enter():
            torch.nn.functional.cross_entropy(plot._logits(network, x, activation), y).backward()
        reached = network[0].grad is not None and bool(network[0].grad.abs().sum() > 0)
        assert reached == (name != "as it is"), name


# --- op ------------------------------------------------------------------------------------------------------------


def composed(x):
    table = torch.tensor([1.0, 0.0, 2.0, -1.0, 3.0])
    return torch.where(x > -0.6, table[torch.round(2 * torch.sign(x - 0.5)).long() + 2], torch.floor(x))


PROGRAMS = {
    "sign": torch.sign,
    "round": torch.round,
    "floor": torch.floor,
    "bool": lambda x: x > 0.3,
    "integers": lambda x: (3 * torch.sign(x)).long(),
    "remainder": lambda x: x % 1,
    "composed": composed,
    "in place": lambda x: x.sign_().mul_(2),
}


@pytest.mark.parametrize(
    "name, forward",
    [(name, "linear") for name in PROGRAMS] + [("composed", "hard")],
)
def test_op_draws_the_program_and_its_gradient(name, forward):
    f = lambda x: PROGRAMS[name](x.float().clone()).double()
    figure = plot.op(PROGRAMS[name], eps=0.15, forward=forward)
    values, slopes = figure.axes
    plain, region = values.lines
    x, y = data(plain)
    assert len(x) == 800 and -2 < x.min() < -1.99 and 1.99 < x.max() < 2
    assert torch.equal(y, f(x))
    x, y = data(region)
    if forward == "linear":
        torch.testing.assert_close(y, average(f, x, 0.15), rtol=0, atol=5e-3)
    else:
        assert torch.equal(y, f(x))
    slope, dots = slopes.lines
    for line in (slope, dots):
        x, y = data(line)
        torch.testing.assert_close(y, box(f, x, 0.15), rtol=1e-4, atol=1e-4)
    assert len(list(data(dots))[0]) == 80
    assert "largest difference" in dots.get_label()


def test_op_draws_local_gradients_beside_what_the_program_does():
    """``2 * sign`` is a float like any other, far from the boundaries of `round`; the mask and `floor` have ramps."""
    f = lambda x: PROGRAMS["composed"](x.float().clone()).double()
    figure = plot.op(PROGRAMS["composed"], eps=0.15, forward="straight-through")
    (_, region), (slope, dots) = (axes.lines for axes in figure.axes)
    x, y = data(region)
    assert torch.equal(y, f(x))
    x, y = data(slope)
    table = torch.where(x > 0.5, 3.0, 1.0).double()
    mask = ((x + 0.6).abs() <= 0.15) * (table - torch.floor(x))
    floor = ((x - x.round()).abs() <= 0.15) * (x <= -0.6)
    torch.testing.assert_close(y, (mask + floor) / 0.3, rtol=1e-4, atol=1e-4)
    x, y = data(dots)
    torch.testing.assert_close(y, box(f, x, 0.15), rtol=1e-4, atol=1e-4)
    assert difference(figure) == 7.0  # 2 / 0.3, in one digit


def difference(figure):
    return float(figure.axes[1].lines[1].get_label().split()[-1])


def test_op_shows_where_the_oracle_differs():
    dependent = lambda x: torch.where(x > -1, 1.0, torch.floor(x))
    assert difference(plot.op(dependent, eps=0.2)) > 1
    assert difference(plot.op(lambda x: torch.sign(3 * x), eps=0.3)) > 1
    assert difference(plot.op(lambda x: torch.sign(3 * x), eps=0.3, scale=3)) < 1e-4


def test_op_is_not_changed_by_what_is_on_around_it():
    expected = [list(data(line))[1] for axes in plot.op(torch.round).axes for line in axes.lines]
    for around in (torch.inference_mode(), sll.linearize(0.01, forward="hard"), sll.hard()):
        with around:
            figure = plot.op(torch.round)
        found = [list(data(line))[1] for axes in figure.axes for line in axes.lines]
        assert all(map(torch.equal, expected, found)), around


def test_op_takes_a_module_and_a_constant():
    figure = plot.op(torch.nn.Hardshrink(), eps=0.2, points=100)
    assert figure.get_suptitle() == "Hardshrink"
    figure = plot.op(lambda x: torch.ones_like(x))
    assert (list(data(figure.axes[1].lines[0]))[1] == 0).all()


@pytest.mark.parametrize(
    "fn, arguments, error, message",
    [
        (3, {}, TypeError, "fn must be a function of one tensor such as torch.round, got 3 of type int"),
        (torch.sign, {"eps": "auto"}, TypeError, "eps must be a number, got 'auto'.*needs one width"),
        (torch.sign, {"eps": 0.0}, ValueError, "eps must be positive and finite, got 0.0"),
        (torch.sign, {"eps": math.nan}, ValueError, "eps must be positive and finite, got nan"),
        (torch.sign, {"scale": -1}, ValueError, "scale must be positive and finite, got -1"),
        (torch.sign, {"low": 2.0}, ValueError, "low must be less than high, got low=2.0 and high=2.0"),
        (torch.sign, {"high": math.inf}, ValueError, "high must be finite, got inf"),
        (torch.sign, {"low": True}, TypeError, "low must be a number, got True"),
        (torch.sign, {"points": 2.5}, TypeError, "points must be an int, got 2.5"),
        (torch.sign, {"points": 3}, ValueError, "points must be at least 10, got 3"),
        (torch.sign, {"forward": "soft"}, ValueError, "forward must be one of"),
        (torch.sum, {}, ValueError, r"elementwise: it made a tensor of shape \(\) from one of shape \(800,\)"),
        (lambda x: x.softmax(0), {}, ValueError, "elementwise and the same at every call"),
        (lambda x: x.cumsum(0), {}, ValueError, "elementwise and the same at every call"),
        (lambda x: torch.ones(800), {}, ValueError, "elementwise and the same at every call"),
        (lambda x: x.tolist(), {}, TypeError, "fn must return a tensor"),
        (lambda x: x + 1j, {}, TypeError, "fn must return real numbers, got torch.complex64"),
    ],
)
def test_op_says_what_is_wrong(fn, arguments, error, message):
    with pytest.raises(error, match=message):
        plot.op(fn, **arguments)


# --- report --------------------------------------------------------------------------------------------------------


def made_of(*rows, traced=True):
    return Report({}, {}, {}, rows, traced)


def site(line, op="sign", file="/somewhere/project/model.py"):
    return CallSite(file, line, op)


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_report_draws_a_traced_region():
    x = torch.linspace(-1, 1, 40, requires_grad=True)
    with sll.linearize(0.25, trace=True, on_lost="ignore") as region:
        y = torch.sign(x)
        far = x > 9
        (y * torch.where(far, 2.0, 1.0)).sum().backward()
        (x > 0.1).sum().item()
    report = region.report()
    figure = plot.report(report)
    shares, gradients = figure.axes
    decides = [row for row in report.rows if row.kind == "decides"]
    assert [bar.get_width() for bar in shares.patches] == [row.share for row in decides]
    assert decides[0].share == 0.25 and decides[1].share == 0
    assert [label.get_text() for label in shares.get_yticklabels()] == [
        f"{Path(__file__).name}:{row.site.line} ({row.site.op})" for row in report.rows
    ]
    arrived, passed = gradients.lines[-2:]
    shown = dict(zip(arrived.get_ydata(), arrived.get_xdata()))
    assert shown[0] == decides[0].grad_out
    assert math.isclose(shown[0], 2 * math.sqrt(40), rel_tol=1e-6)  # on the other side the sum is another by 2
    shown = dict(zip(passed.get_ydata(), passed.get_xdata()))
    assert math.isclose(shown[0], decides[0].grad_in) and math.isclose(shown[0], 4 * math.sqrt(10), rel_tol=1e-6)
    assert any("lost" in said for said in words(shares))
    assert figure.axes[1].get_xscale() == "log"
    assert isinstance(report.plot(), Figure)


def test_report_marks_every_kind():
    lost = (site(12), site(13))
    figure = plot.report(
        made_of(
            Row(site(12), "decides", 1, 100, 31, (1.0, 1.0), grad_out=0.3, grad_in=0.0),
            Row(site(13), "decides", 1, 1000, 1, (0.25, 1.25)),
            Row(site(14), "decides", 1, 100, 0, (0.1, 0.1), reach=(0.7, 1.0, 2.0), grad_out=math.inf, grad_in=math.nan),
            Row(site(15, "where"), "follows", 1, 100),
            Row(site(16, "mode"), "hard", 1, 100, why="no rule"),
            Row(site(17, "item"), "lost", 1, 1, 1, lost=lost),
            Row(site(18, "item"), "lost", 1, 1, 0, lost=lost),
            Row(site(19, "detach"), "cut", 1, 1),
        )
    )
    shares, gradients = figure.axes
    assert words(shares) == [
        "31%, eps 1",
        "< 1%, eps 0.25 to 1.25",
        "0%, eps 0.1; the nearest is 0.7 away",
        "follows an earlier decision",
        "hard: not linearized",
        "lost: a gradient ends here (of 2 decisions)",
        "ends gradients; none in a band so far",
        "cut: the program leaves autograd",
    ]
    assert sorted(words(gradients)) == ["0", "inf", "nan", "none arrived"]
    low, high = gradients.get_xlim()
    assert 0 < low < 0.3 < high


def test_report_without_a_backward_pass_says_so():
    gradients = plot.report(made_of(Row(site(12), "decides", 1, 100, 31))).axes[1]
    assert "backward has not run" in words(gradients)[0]
    assert not gradients.lines


def test_report_tells_files_of_one_name_apart():
    figure = plot.report(
        made_of(
            Row(site(12), "decides", 1, 100, 31),
            Row(site(12, file="/somewhere/else/model.py"), "decides", 1, 100, 31),
            Row(site(12, file="/somewhere/a_module_with_a_name_that_is_far_too_long.py"), "decides", 1, 100, 31),
        )
    )
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["project/model.py:12 (sign)", "else/model.py:12 (sign)"]
    assert labels[2] == "…_name_that_is_far_too_long.py:12 (sign)"


@pytest.mark.parametrize("n", [1, 30])
def test_report_is_readable_for_any_number_of_rows(n):
    rows = [
        Row(site(100 + i, "searchsorted"), "decides", 1, 100, 100, (0.123, 4.56), grad_out=10.0**i, grad_in=10.0**-i)
        for i in range(n)
    ]
    figure = plot.report(made_of(*rows))
    figure.draw_without_rendering()
    page = figure.bbox
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in [*axes.texts, *axes.get_yticklabels()] if text.get_text()]
        boxes += [axes.xaxis.label.get_window_extent()]
        assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
        overlapping = [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]
        assert not overlapping
    labels = figure.axes[0].get_yticklabels()
    assert all(t.get_window_extent().x1 <= figure.axes[1].bbox.x0 for t in [*labels, *figure.axes[0].texts])


def test_report_says_what_is_wrong():
    with sll.linearize(0.1) as region:
        torch.sign(torch.ones(3, requires_grad=True))
    with pytest.raises(ValueError, match=r"not traced; make it with linearize\(\.\.\., trace=True\)"):
        plot.report(region.report())
    with pytest.raises(ValueError, match="no discrete function ran in the region"):
        plot.report(made_of())
    with pytest.raises(TypeError, match=r"report must be what region.report\(\) returns, got .*linearize"):
        plot.report(region)


# --- matplotlib ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot.op(torch.sign),
        lambda: plot.compare(quick=True),
        lambda: plot.report(made_of(Row(site(1), "decides", 1, 1))),
        lambda: plot.style().__enter__(),
    ],
)
def test_without_matplotlib_the_remedy_is_named(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw()


def test_matplotlib_is_imported_when_needed_and_needs_no_display():
    program = """
import sys
import torch, sll
assert not [name for name in sys.modules if name.startswith("matplotlib")]
with sll.linearize(0.1, trace=True) as region:
    torch.sign(torch.ones(3, requires_grad=True))
sll.plot.op(torch.sign).savefig(sys.stdout.buffer, format="png")
sll.plot.report(region.report()).savefig(sys.stdout.buffer, format="png")
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {name: value for name, value in __import__("os").environ.items() if name != "DISPLAY"}
    environment["MPLBACKEND"] = "tkagg"  # which would want one
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.count(b"\x89PNG") == 2


# --- tools/figures.py ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "tools" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_of_the_docs_has_a_script(figures):
    drawn = {path.stem for path in (ROOT / "docs" / "figures").glob("*.png")}
    assert drawn == set(figures.FIGURES)


@pytest.mark.parametrize("name", ["window", "outcomes", "report"])
def test_figures_are_small_and_the_same_every_time(name, figures, tmp_path):
    for folder in ("first", "second"):
        with plot.style():
            figures.save(figures.FIGURES[name](), tmp_path / folder / f"{name}.png")
    first, second = ((tmp_path / folder / f"{name}.png").read_bytes() for folder in ("first", "second"))
    assert first == second
    assert len(first) < 80_000
    image = Image.open(tmp_path / "first" / f"{name}.png")
    assert "transparency" not in image.info
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
