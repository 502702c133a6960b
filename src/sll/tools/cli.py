"""The command line: ``sll demo``, ``compare``, ``explain``, ``ops`` and ``doctor``.

Results go to stdout, progress and messages to stderr. A command ends with 0, with 1 if something failed while it ran
(a program raised, an extra is not installed, a check did not pass) and with 2 if it was called in a wrong way.
What a command does is imported when it runs: help, the version and wrong calls need not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import sll

from .console import FAILED, USAGE, save, stop, working, writable_figure

EPILOG = "Exit codes: 0 done, 1 something failed while it ran, 2 called in a wrong way."

app = typer.Typer(
    add_completion=False,  # its two options would stand first in every help
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else.")]
Quick = Annotated[bool, typer.Option("--quick", help="A few seconds: only to see that everything runs.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sll {sll.__version__}")
        raise typer.Exit


@app.callback(epilog=EPILOG)
def sll_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Derivatives for discrete PyTorch programs that nobody has to edit.

    `round`, `sign`, `x > 0` or `argmax` have no useful gradient. Inside
    `with sll.linearize():` each of their jumps is a straight ramp over a small band around its decision
    boundary. Outside the band, and after the region, the program is the original one.

    Start here:

    ```sh
    sll doctor                       # does it work on this machine?
    sll compare -o comparison.png    # what does it do to a function?
    sll explain my_module:my_function --input "randn(8, 3)"    # where do gradients come from, where do they end?
    sll demo                         # does it train?
    sll COMMAND --help               # more about each, with examples
    ```
    """


# --- demo and compare ------------------------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the picture goes.")] = Path("out/demo.png"),
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Train three discrete programs on real data, with and without sll.

    A network with sign activations and a 2-bit network on scikit-learn's digits, and a threshold classifier that
    maximises torchmetrics' F1 score itself: as they are, rewritten by hand with a straight-through estimator, and as
    they are inside a region. All scores are those of the deployed hard program. The picture is that of the README. A
    minute on two cores; nothing is downloaded.

    Needs `pip install rich typer matplotlib scikit-learn torchmetrics`.

    Examples:

    ```sh
    sll demo
    sll demo --quick -o picture.svg
    sll demo --json > scores.json
    ```

    JSON keys: seeds, quick, tasks (name, score, methods (name, edited, test: one score per seed in percent, seconds:
    of each training)), figure, seconds.
    """
    import torch

    try:
        from . import demo as program
    except ImportError as error:
        stop(FAILED, str(error))
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread, and lose a lot on a busy machine
    program.main(quick, writable_figure("--output", output), as_json)


@app.command(epilog=EPILOG)
def compare(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the figure goes.")] = Path("comparison.png"),
    quick: Quick = False,
) -> None:
    """Draw what linearization does: values, gradients, the band, and a training run.

    Six panels: sign and its gradient beside the hard function and tanh, round at the half-integers, a zoom into the
    band, and the same function for several eps. The last is the deployed score during training: with no gradient, a
    straight-through estimator, a sigmoid surrogate and sll. Everything is computed, nothing is drawn from formulas.

    Needs `pip install matplotlib`.

    Examples:

    ```sh
    sll compare
    sll compare --quick -o comparison.pdf
    ```

    """
    writable_figure("--output", output)
    with working("computing and training"):
        figure = sll.plot.compare(quick=quick)
    save(figure, "--output", output)
    Console(highlight=False).print(f"figure: {output}", soft_wrap=True)


# --- explain ---------------------------------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def explain(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="module:function or path/to/file.py:function. Instances of nn.Module, their methods and classes that "
            "are made without arguments work too.",
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="SPEC", help="Once per positional argument; NAME=SPEC for one with a name."
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help='"auto", or the half-width of the band in the units of each op\'s input; the default is that of '
            "sll.linearize."
        ),
    ] = None,
    forward: Annotated[
        str | None, typer.Option(help='"linear", "hard" or "straight-through"; the default is that of sll.linearize.')
    ] = None,
    paths: Annotated[
        int, typer.Option(help="How often the function may run, to follow what Python asks (if, while, int()).")
    ] = 1,
    see_through: Annotated[
        bool, typer.Option("--see-through", help="Look through torch.no_grad() and detach() of the program.")
    ] = False,
    seed: Annotated[int, typer.Option(help="For the inputs and the parameters.")] = 0,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the report, too: .png, .svg or .pdf.")
    ] = None,
    with_traceback: Annotated[
        bool, typer.Option("--traceback", help="If the program raises, print the lines that led there.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="Show the figures of each call site, too.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Hold the gradient against the hard program, too: is it right?")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show where the gradients of a program come from, and where they end.

    Runs the function forward and backward, once as it is and once in a region, and lists each line that decides
    something: how many values are in the band, which gradient arrived, which was passed on, and what stands in the way.

    SPEC is [[1.0, 2.0]], a number, True, None, a word, file.pt or file.npy. Or it is one of randn(8, 3), rand(…),
    randint(0, 9, (4,)), linspace(-1, 1, 50), arange(10), zeros(…), ones(…), full((2, 3), 0.5). Each of these takes
    dtype=float64, too. Gradients are shown for floating-point inputs: [1, 2] has integers, [1.0, 2.0] has not.

    Examples:

    ```sh
    sll explain torch:round --input "linspace(-2, 2, 41)" --eps 0.1
    sll explain sll.tools.demo:TwoBitNet --input "rand(8, 64)" --eps 0.5 --table
    sll explain model.py:Net --input "randn(8, 3)" --plot report.png
    sll explain model.py:Net --input "randn(8, 3)" --check
    sll explain my_package.losses:f1 -i scores.pt -i "randint(0, 2, (100,))" -i reduction=mean --json
    ```

    JSON keys: target, seed, region, inputs, refused, inner, sections, advice, report (as from Report.to_dict()), check
    (with --check, as from Check.to_dict()). An input has name, shape, hard and linearized: norms of gradients without
    and with the region. refused is what PyTorch said where it cannot differentiate the program without a region. inner
    says whether the program enters regions of its own.
    """
    where, _, what = target.rpartition(":")
    if not where or not what:
        stop(USAGE, f"TARGET must be module:function or path/to/file.py:function, got {target!r}")
    if where.endswith(".py") and not Path(where).is_file():
        stop(USAGE, f"TARGET {target!r}: there is no file {where}; the path starts in {Path.cwd()}")
    from .explaining import explain

    options = {"paths": paths, "see_through": see_through, "check": check}
    explain(target, inputs, eps, forward, options, seed, plot, with_traceback, table, as_json)


# --- ops -------------------------------------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def ops(as_json: AsJson = False) -> None:
    """List what is linearized, and what is left alone for which reason.

    The names are those that `only=`, `exclude=` and `eps={…}` of sll.linearize take.

    JSON keys: linearized (name, boundaries), left_alone (name, reason).
    """
    from .ops import ops

    ops(as_json)


# --- doctor ----------------------------------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def doctor(
    compile_too: Annotated[
        bool, typer.Option("--compile", help="Check the default backend of torch.compile, too: up to a minute.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that sll works on this machine, and show what a bug report should say.

    Lists versions, devices, which accelerations there are, torch function modes of other libraries and known problems,
    and runs checks on each device: a gradient against the number it must be, the same compiled, hard values, and that
    two runs are equal. Ends with 1 if a check fails. An acceleration that is missing is no failure.

    Examples:

    ```sh
    sll doctor
    sll doctor --compile --json
    ```

    JSON keys: ok, versions (package: version or null), devices (device, detail), accelerations (name, available,
    detail), checks (name, device, status: passed, failed or skipped, detail, seconds), function_modes, known_problems.
    """
    from .doctor import doctor

    doctor(compile_too, as_json)
