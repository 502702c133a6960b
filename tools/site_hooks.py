"""What `mkdocs build` does beside the usual: formulas become MathML, and the source is in the site, line by line.

No script and no font is fetched when a page is read, so formulas cannot wait for MathJax, and links to source lines
cannot go to a host.

- Formulas (``$...$``, found by pymdownx.arithmatex) are set by latex2mathml. A command that it does not know fails the
  build.
- Each notebook of ``docs/notebooks`` becomes a page, with the outputs and figures that are stored in it.
- Each file of ``src/sll`` becomes a page ``source/sll/….md``. Links in the text that lead to a file of the repository
  (``[...](../src/sll/region.py)``) and the source of an object in the API pages lead there.
"""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "sll").rglob("*.py"))


# --- formulas ----------------------------------------------------------------------------------------------------


def mathml(formula: str, display: str) -> str:
    """MathML of a formula in LaTeX; `display` is "inline" or "block"."""
    words = re.sub(r"\\mathrm\{(\w+)\}", r"\\operatorname{\1}", formula.replace(r"\arg\min", r"\operatorname{argmin}"))
    out = convert(" ".join(words.split()), display=display)
    if unknown := re.findall(r">(\\\w*)<", out):
        raise PluginError(f"latex2mathml does not know {', '.join(unknown)} in {formula!r}")
    if display == "block":  # latex2mathml knows for `min`, but not for `argmin`, that its range stands below
        out = re.sub(r"<msub>(<mo>argmin</mo><mrow>.*?</mrow>)</msub>", r"<munder>\1</munder>", out)
    return out.replace("<mo>argmin</mo>", "<mo>arg min</mo>")


def _set(content: str) -> str:
    content = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>([,.;:)]*)',
        lambda found: f'<span class="formula">{mathml(html.unescape(found[1]), "inline")}{found[2]}</span>',
        content,
        flags=re.DOTALL,
    )
    return re.sub(
        r'<div class="arithmatex">\\\[(.*?)\\\]</div>',
        lambda found: f'<div class="math">{mathml(html.unescape(found[1]), "block")}</div>',
        content,
        flags=re.DOTALL,
    )


# --- notebooks ---------------------------------------------------------------------------------------------------


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A stored notebook as Markdown, and the pictures in it by the names that it has for them."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![]({name})")
            elif "text/html" in data:
                parts.append(f'<div class="output">{_line("".join(data["text/html"]))}</div>')
            else:
                parts.append(f"```text\n{''.join(data.get('text/plain', output.get('text', '')))}\n```")
    first = f"\n\n[The notebook itself]({path.name})\n\n"
    title, *rest = "\n\n".join(parts).split("\n", 1)
    return title + first + "".join(rest), pictures


def _line(text: str) -> str:
    """HTML without empty lines, which would end it in Markdown."""
    return re.sub(r"\n(?=\s*\n)", "\n&#8203;", text)


def _notebooks(config: MkDocsConfig) -> list[File]:
    made: list[File] = []
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text, pictures = notebook(path)
        made.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        made += [File.generated(config, f"notebooks/{name}", content=data) for name, data in pictures.items()]
    return made


# --- source ------------------------------------------------------------------------------------------------------


def _page_of(path: Path) -> str:
    """Where the source of a file of ``src`` is in the site."""
    return "source/" + path.relative_to(ROOT / "src").with_suffix(".md").as_posix().replace("__init__", "package")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in _notebooks(config):
        files.append(file)
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        text = (
            f"---\nsearch:\n  exclude: true\nhide: [navigation, toc]\n---\n# `{name}`\n\n"
            f'``````{{.python linenums="1"}}\n{path.read_text(encoding="utf-8")}``````\n'
        )
        files.append(File.generated(config, _page_of(path), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = (ROOT / "docs" / page.file.src_uri).parent

    def to_page(found: re.Match[str]) -> str:
        path = (here / found[1]).resolve()
        if path not in SOURCES:
            raise PluginError(f"{page.file.src_uri} links to {found[1]}, which is not a file of src/sll")
        return f"]({get_relative_url(_page_of(path), page.file.src_uri)})"

    # Chinese has no spaces: a line break between two of its characters must not become one.
    markdown = re.sub(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n *(?=[\u4e00-\u9fff])", "", markdown)
    return re.sub(r"\]\(((?:\.\./)+src/sll/[\w/]+\.py)\)", to_page, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    def to_line(found: re.Match[str]) -> str:
        target = files.get_file_from_path(_page_of(ROOT / found[1]))
        assert target is not None, found[1]
        first = re.search(r'<span class="normal">(?:<a[^>]*>)?\s*(\d+)', content[found.end() :])
        assert first is not None, f"no line number below {found[0]}"
        url = f"{get_relative_url(target.url, page.url)}#__codelineno-0-{first[1]}"
        return f'<summary><a href="{url}"><code>{found[1]}</code>, line {first[1]}</a></summary>'

    content = re.sub(r"<summary>Source code in <code>(src/sll/[\w/]+\.py)</code></summary>", to_line, content)
    return _set(content)
