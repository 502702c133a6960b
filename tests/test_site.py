"""The site in a real browser: no page is wider than the window, on a desk and on a phone, light and dark. Search works.

Both languages are among the pages.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


@pytest.fixture(scope="module")
def server(site):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(site))) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{opened.server_port}"
        opened.shutdown()


@pytest.mark.parametrize(
    "start, words, found",
    [
        ("index", "topk_mask", "/api/functions.html"),
        ("index", "see_through", "/see-through.html"),
        ("zh/index", "窄带", "/zh/how-it-works.html"),
        ("zh/index", "梯度", "/zh/check.html"),
        ("zh/index", "argmax", "/api/functions.html"),
    ],
)
def test_search(window, server, start, words, found):
    window.resize(1280)
    window.show(f"{server}/{start}.html")
    assert any(found in link for link in browser.search(window, words))


def test_no_page_overflows(window, site):
    shown = browser.pages(site)
    assert len(shown) > 40
    assert {"index.html", "zh/index.html"} <= {page.relative_to(site).as_posix() for page in shown}
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
