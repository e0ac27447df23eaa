"""What MkDocs does for the site beyond its settings.

The README is the home page and the changelog a page, without standing in docs/ a second time. Links are written for the
repository: one that leads out of docs/ leads to these two pages, or becomes plain text. A page that would fetch something
from another server is an error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
ROOT = DOCS.parent
OUTSIDE = {"index.md": ROOT / "README.md", "changelog.md": ROOT / "CHANGELOG.md"}
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")
_FETCHED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside docs/."""
    for name, path in OUTSIDE.items():
        files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Have links lead to pages of the site."""
    here = OUTSIDE.get(page.file.src_uri, DOCS / page.file.src_uri).parent
    return _LINK.sub(lambda link: _led(link, here), markdown)


def _led(link: re.Match[str], here: Path) -> str:
    label, target, anchor = link[1], Path(os.path.normpath(here / link[2])), link[3] or ""
    names = {path: name for name, path in OUTSIDE.items()}
    if target.is_relative_to(DOCS):
        return f"[{label}]({target.relative_to(DOCS)}{anchor})"
    return f"[{label}]({names[target]}{anchor})" if target in names else label


def on_post_page(output: str, page: Page, **_: object) -> str:
    """See that a page needs no other server.

    Raises:
        PluginError: it does.
    """
    fetched = _FETCHED.search(output)
    if fetched:
        raise PluginError(f"{page.file.src_uri} fetches {fetched[0]}; keep it in docs/.")
    return output
