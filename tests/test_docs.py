"""The documentation: its code runs, its links lead somewhere, what is made from the code is up to date, and it builds
strictly.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sll
from sll._rules import index

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
TRANSLATED = sorted(path.relative_to(DOCS / "zh").as_posix() for path in (DOCS / "zh").glob("*.md"))

NOT_RUN = "<!-- not run"
"""In front of a Python block that is no program. `errors.md` has programs that fail: `test_errors.py` runs those."""


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


pages = load(ROOT / "tools" / "pages.py")


def text(page):
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page, languages="python"):
    """The code of a page that is meant to run."""
    whole = text(page)
    found = re.finditer(rf"^```(?:{languages})\n(.*?)^```$", whole, re.DOTALL | re.MULTILINE)
    return [match[1] for match in found if not whole[: match.start()].rstrip().rpartition("\n")[2].startswith(NOT_RUN)]


# --- code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(("errors", "zh/")) and blocks(page)])
def test_code_runs(page, rules_as_they_were):
    """Translations have the same code: see below."""
    torch.set_num_threads(1)
    if page in pages.WITH_OUTPUT:
        new = pages.with_output(page)
        assert not pages.stale(page, new), f"docs/{page} shows other output; run: python tools/pages.py {page}"
        return
    namespace: dict = {"__name__": "__main__"}
    for i, block in enumerate(blocks(page)):
        exec(compile(block, f"docs/{page} block {i}", "exec"), namespace)


def test_a_wrong_assertion_in_a_page_is_noticed(tmp_path, monkeypatch):
    page = tmp_path / "wrong.md"
    page.write_text("text\n\n```python\nassert 1 + 1 == 3\n```\n\n<!-- not run -->\n```python\n1 / 0\n```\n")
    monkeypatch.setattr(sys.modules[__name__], "DOCS", tmp_path)
    (block,) = blocks("wrong.md")
    with pytest.raises(AssertionError):
        exec(block)


@pytest.mark.parametrize("page", TRANSLATED)
def test_translations_are_in_step(page):
    def code(name):
        return [re.sub(r'(#.*|""".*?""")', "", block) for block in blocks(name, "python|sh|text")]

    assert code(page) == code(f"zh/{page}")
    headings = [re.findall(r"^#+ ", text(name), re.MULTILINE) for name in (page, f"zh/{page}")]
    assert headings[0] == headings[1]


# --- pages that are made from the code -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages.PAGES)
def test_made_pages_are_up_to_date(page):
    if not pages.of_this_torch(page):
        pytest.skip("the page is written with the torch of constraints.txt")
    assert not pages.stale(page, pages.PAGES[page]()), "run: python tools/pages.py"


def test_every_op_is_in_the_table():
    named = re.findall(r"^\| `(\w+)` \|", text("operators.md").split("## What passes")[0], re.MULTILINE)
    assert sorted(named) == sorted(sll.OPS)


def test_every_example_is_in_the_gallery():
    shown = re.findall(r"^`examples/(\w+)\.py` prints:", text("gallery.md"), re.MULTILINE)
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "examples").glob("*.py")), (
        "run: python tools/figures.py --gallery; python tools/pages.py"
    )


def test_a_new_rule_makes_the_page_stale(monkeypatch):
    monkeypatch.setitem(index.LEFT_ALONE, "no_such_function", "because")
    assert pages.stale("operators.md", pages.operators())


def test_the_words_of_the_report_are_those_of_the_report():
    """What `index.md` says the last column may say."""
    report = (ROOT / "src" / "sll" / "_reports" / "rows.py").read_text(encoding="utf-8")
    table = text("index.md").split("| the last column |")[1].split("\n\n")[0]
    words = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(words) > 5 and [word for word in words if f'"{word}"' not in report] == []


# --- links and figures -------------------------------------------------------------------------------------------


def links(page):
    """Where the links and pictures of a page lead, and to which anchor."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield target, (DOCS / page).parent / path if path else DOCS / page, anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_and_figures_exist(page):
    missing = [target for target, path, _ in links(page) if not path.exists()]
    assert not missing, missing


def test_readme_links_exist():
    for readme in ("README.md", "README.zh-CN.md"):
        found = re.findall(r"\]\(([^)\s#]+)[^)]*\)", (ROOT / readme).read_text(encoding="utf-8"))
        missing = [target for target in found if not re.match(r"\w+:", target) and not (ROOT / target).exists()]
        assert not missing, (readme, missing)


def test_every_figure_is_drawn_by_a_script():
    """`docs/figures` by `tools/figures.py`, the gallery's by its example, `docs/img` by a benchmark."""
    drawn = set(load(ROOT / "tools" / "figures.py").FIGURES)
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    for figure in DOCS.rglob("*.png"):
        folder = figure.parent.relative_to(DOCS).as_posix()
        if folder == "figures":
            assert figure.stem in drawn, f"{figure.name}: not in FIGURES of tools/figures.py"
        elif folder == "figures/gallery":
            assert (ROOT / "examples" / f"{figure.stem}.py").exists(), f"{figure.name}: no such example"
        else:
            assert folder == "img" and figure.name in benchmarks, f"{figure}: no script names it"


@pytest.mark.parametrize("figure", sorted(DOCS.rglob("*.png")), ids=lambda path: path.stem)
def test_letters_of_figures_are_large_enough(figure):
    """Letters of 8 points are drawn 12.2 pixels high, and a page is 750 wide: there they are to have 10."""
    width = int.from_bytes(figure.read_bytes()[16:20], "big")  # where a PNG says it
    assert width <= 12.2 * 750 / 10


# --- the site ----------------------------------------------------------------------------------------------------


def test_formulas():
    pytest.importorskip("mkdocs")
    hooks = load(ROOT / "tools" / "site_hooks.py")
    assert "<msub><mi>x</mi><mi>i</mi></msub>" in hooks.mathml("x_i", "inline")
    with pytest.raises(Exception, match="does not know"):
        hooks.mathml(r"\nosuchcommand x", "inline")


@pytest.mark.slow
def test_strict_build(tmp_path):
    """No warning (with `--quiet` none would be seen), and nothing that a browser would fetch from elsewhere."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        html = (site / page).with_suffix(".html").read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(\w+:)?//[^>]*", html)
        assert not fetched, (page, fetched)
        assert "arithmatex" not in html, f"a formula of {page} was not set"
    api = (site / "api" / "region.html").read_text(encoding="utf-8")
    for name, line in (("region", "    def report(self) -> Report:"), ("decorators", "def unpatch() -> None:")):
        source = (ROOT / "src" / "sll" / f"{name}.py").read_text(encoding="utf-8").splitlines()
        linked = re.findall(rf'href="\.\./source/sll/{name}\.html#__codelineno-0-(\d+)"', api)
        assert line in [source[int(n) - 1] for n in linked]


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", *(f"docs/{page}" for page in PAGES)])
def test_pages_are_short(page):
    found = load(ROOT / "tools" / "words.py").page(ROOT / page)
    assert found.prose <= 1500


def test_what_words_prints(capsys, monkeypatch, tmp_path):
    """Words, words of prose, lines, sentences and the share of the long ones, a page a line."""
    page = tmp_path / "page.md"
    page.write_text("# Two words\n\nThree more words.\n\n| a | table |\n\n```\nsome code\n```\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["words.py", str(page)])
    load(ROOT / "tools" / "words.py").main()
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["page", "words", "prose", "lines", "sentences"]
    assert line.split()[1:] == ["9", "5", "9", "1", "0%"]


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", *(f"docs/{page}" for page in PAGES)])
def test_sentences_are_short(page):
    """At most one in twenty has more than 25 words, on every page. ``tools/words.py --long`` shows them."""
    found = load(ROOT / "tools" / "words.py").page(ROOT / page)
    assert len(found.sentences) >= min(20, found.prose // 25)
    assert len(found.long) <= max(1, len(found.sentences) // 20), found.long


def test_long_sentences_are_found():
    counted = load(ROOT / "tools" / "words.py")
    long = "one " * 26
    text = f"# A\n\nShort here. {long}end.\n\n| {long} |\n\n```\n{long}\n```\n\n- `{long.strip()}` is code.\n"
    assert [counted.words(s) for s in counted.sentences(text)] == [2, 27, 3]
