"""The pages of the site: README.md, docs/ and all that they link to, at the repository's paths.

So a relative link leads to the same page on GitHub and on the site. A hook of MkDocs (mkdocs.yml).
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\[([^]]*)\]\(([^)#:]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by these pages; the theme's own files stay."""
    root = Path(config.config_file_path).parent.resolve()
    found: set[Path] = set()
    new = {root / "README.md", *(root / "docs").rglob("*.md"), root / "docs" / "site.css"}
    while new:
        found |= new
        new = {target for path in new if path.suffix == ".md" for target in _linked(path)} - found
    from_theme = [file for file in files if file.src_dir != config.docs_dir]
    pages = [
        File(str(path.relative_to(root)), str(root), config.site_dir, config.use_directory_urls)
        for path in sorted(found)
    ]
    return Files([*from_theme, *pages])


def _linked(page: Path) -> set[Path]:
    """Return the files that a page links to."""
    targets = (page.parent / target for _, target in _LINK.findall(page.read_text("utf-8")))
    return {target.resolve() for target in targets if target.is_file()}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the text alone of a link to a folder, which has a page on GitHub only."""
    folder = Path(str(page.file.abs_src_path)).parent

    def without_folder(link: re.Match[str]) -> str:
        return link[1] if (folder / link[2]).is_dir() else link[0]

    return re.sub(_LINK.pattern + r"\)", without_folder, markdown)
