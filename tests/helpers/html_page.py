"""A page as a browser reads it."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """A page as a browser reads it: texts, elements, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "hr", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def bars(self) -> list[tuple[float, float]]:
        """Return the heights of each token's bars, given the summary and the document."""
        found = [attrs["style"] for tag, attrs in self.elements if tag == "i"]
        matches = [re.fullmatch(r"--s:([\d.]+);--d:([\d.]+)", style or "") for style in found]
        return [(float(match[1]), float(match[2])) for match in matches]
