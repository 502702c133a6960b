"""``sll`` and ``python -m sll``: starts the command line of `sll.tools.cli`, or says what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from .tools.cli import app
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("rich", "typer"):
            raise
        print(f"error: the command line needs {missing}: pip install rich typer matplotlib", file=sys.stderr)
        raise SystemExit(1) from None
    if sys.argv[1:] and not {"-h", "--help"} & set(sys.argv):  # what draws boxes around errors takes long to import
        app.rich_markup_mode = None
    app(prog_name="sll")


if __name__ == "__main__":
    main()
