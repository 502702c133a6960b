"""The site in a real browser: no page is wider than the window, on a desk and on a phone, light and dark."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("browser", ROOT / "tools" / "browser.py")
assert spec is not None and spec.loader is not None
browser = importlib.util.module_from_spec(spec)
sys.modules["browser"] = browser
spec.loader.exec_module(browser)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browser.available(), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def window():
    with browser.Browser() as opened:
        yield opened


def test_no_page_overflows(window, tmp_path):
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    shown = browser.pages(tmp_path)
    assert len(shown) > 40
    wrong = {}
    for page in shown:
        for scheme in browser.SCHEMES:
            window.show(page, scheme)
            for width in browser.WIDTHS:
                window.resize(width)
                if found := browser.overflow(window):
                    wrong[page.name, width, scheme] = found
    assert not wrong
    assert window.run("return document.body.dataset.mdColorScheme") == "slate"  # the last one is dark


@pytest.mark.parametrize(
    "html, wide",
    [
        ("<p>short</p>", False),
        ("<p style='width: 1300px'>a paragraph</p>", True),
        ("<div style='overflow-x: auto'><p style='width: 1300px'>scrolls</p></div>", False),
    ],
)
def test_what_overflows_is_found(window, tmp_path, html, wide):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body style='margin: 0'><main>{html}</main></body>", encoding="utf-8")
    window.show(page, "light")
    window.resize(1280)
    assert bool(browser.overflow(window)) is wide
