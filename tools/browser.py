"""Look at the built site in headless Chromium: pages that are wider than the window, and screenshots.

    make docs
    python tools/browser.py                               # names the pages that overflow sideways
    python tools/browser.py --screenshots out/screens     # and saves each page as it looks
    python tools/browser.py --only index gallery zh/tour

Each page is shown 1280 and 400 pixels wide, light and dark. Needs `chromium` and `chromedriver`; speaks to the driver
by its HTTP protocol (W3C WebDriver), so nothing else is needed.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
FLAGS = """
--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update
--disable-sync --hide-scrollbars --force-device-scale-factor=1
""".split()
OVERFLOW = """
const width = document.documentElement.clientWidth;
const scrolls = e => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
const inside = e => e.parentElement && (scrolls(e.parentElement) || inside(e.parentElement));
const outside = e => e.getBoundingClientRect().right > width + 1 && !inside(e);
const wide = [...document.querySelectorAll("main *")].filter(outside);
const said = wide.map(e => `${e.tagName} ${e.className}: ${(e.textContent || "").trim().slice(0, 60)}`);
return [document.documentElement.scrollWidth - width, said.slice(0, 3)];
"""
SEARCH = """
const field = document.querySelector(".md-search__input");
field.focus();
field.value = %s;
field.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
"""


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def available() -> bool:
    return chromium() is not None and shutil.which("chromedriver") is not None


class Browser:
    """A window whose width and colour scheme can be set. A context manager, which ends the driver."""

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory()
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._driver.stdout is not None
        line = next(line for line in self._driver.stdout if "started successfully on port" in line)
        self._at = f"http://127.0.0.1:{line.rstrip().rstrip('.').rpartition(' ')[2]}"
        options = {"binary": chromium(), "args": [*FLAGS, f"--user-data-dir={self._profile.name}"]}
        asked = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self._session = "/session/" + self._ask("/session", asked)["sessionId"]
        forget = "try { localStorage.clear() } catch (error) {}"  # the site would keep the scheme of the first page
        self._command("Page.addScriptToEvaluateOnNewDocument", source=forget)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(self._at + self._session, method="DELETE"), timeout=10)
        finally:
            self._driver.terminate()
            self._driver.wait()
            self._profile.cleanup()

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._at + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"].splitlines()[0]) from None

    def _command(self, name: str, **parameters: Any) -> Any:
        return self._ask(f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def run(self, script: str) -> Any:
        return self._ask(f"{self._session}/execute/sync", {"script": script, "args": []})

    def show(self, page: Path | str, scheme: str = "light") -> None:
        """A file, or an address."""
        self._command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._ask(f"{self._session}/url", {"url": page if isinstance(page, str) else page.resolve().as_uri()})

    def resize(self, width: int, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._command("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, to: Path, most: int = 3000) -> None:
        """Of the whole page, or of its upper part."""
        size = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(most, size[1]), "scale": 1}
        shot = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(base64.b64decode(shot))


def pages(site: Path) -> list[Path]:
    """Without the listings of the source, which scroll by themselves."""
    return sorted(path for path in site.rglob("*.html") if path.relative_to(site).parts[0] != "source")


def overflow(browser: Browser) -> list[str]:
    """What sticks out of the page that is shown, and by how many pixels."""
    by, what = browser.run(OVERFLOW)
    return [f"{by} pixels too wide", *what] if by > 0 or what else []


def search(browser: Browser, words: str, seconds: float = 60) -> list[str]:
    """What the search of the page that is shown leads to. It needs a server: a file may not start its worker."""
    browser.run(SEARCH % json.dumps(words))
    until, found = time.monotonic() + seconds, []
    while not found and time.monotonic() < until:
        time.sleep(0.1)
        found = browser.run('return [...document.querySelectorAll(".md-search-result__link")].map(e => e.href)')
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--site", type=Path, default=ROOT / "site")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", metavar="PAGE")
    options = parser.parse_args()
    wrong, start = 0, time.perf_counter()
    with Browser() as browser:
        for page, scheme in itertools.product(pages(options.site), SCHEMES):
            name = page.relative_to(options.site).with_suffix("").as_posix()
            if options.only and name not in options.only:
                continue
            browser.show(page, scheme)
            for width in WIDTHS:
                browser.resize(width)
                if found := overflow(browser):
                    wrong += 1
                    print(f"{name}, {width} pixels, {scheme}:", *found, sep="\n    ")
                if options.screenshots:
                    browser.screenshot(options.screenshots / f"{name.replace('/', '-')}-{width}-{scheme}.png")
    print(f"{wrong} overflow; {time.perf_counter() - start:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
