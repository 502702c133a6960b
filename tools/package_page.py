"""What the package index shows: README with links that lead somewhere, and the addresses of the project.

The repository does not know where it is hosted. The release workflow does, and says so when it builds:

    SLL_REPOSITORY=https://example.org/sll SLL_REF=v3.0.0 python -m build

Links of README that are relative to the repository then lead to that address, pictures to their file. Without
``SLL_REPOSITORY`` README stays as it is, and no addresses are given. ``mkdocs.yml`` reads the same variable.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PackagePage(MetadataHookInterface):
    """Gives ``readme`` and ``urls`` of ``pyproject.toml``, which are dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository, ref = os.environ.get("SLL_REPOSITORY", "").rstrip("/"), os.environ.get("SLL_REF", "main")
        metadata["urls"] = addresses(repository, ref) if repository else {}
        text = linked(text, repository, ref) if repository else text
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def addresses(repository: str, ref: str) -> dict[str, str]:
    return {
        "Source": repository,
        "Documentation": f"{repository}/blob/{ref}/docs/index.md",
        "Changelog": f"{repository}/blob/{ref}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def linked(text: str, repository: str, ref: str) -> str:
    """`text` with links and pictures of the repository as addresses. Code blocks stay as they are."""

    def address(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        kind = "raw" if found["picture"] else "blob"
        return f"{found['picture']}[{found['text']}]({repository}/{kind}/{ref}/{found['path']})"

    code = r"(?P<code>^```.*?^```)"
    link = r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?![a-z]+:|#)[^)]+)\)"
    return re.sub(f"{code}|{link}", address, text, flags=re.DOTALL | re.MULTILINE)
