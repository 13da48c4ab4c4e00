"""The links inside a built site: ``python docs/_links.py out/site`` prints those that lead nowhere; 0 when there are none."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """What a page points to and what it can be pointed to at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is not None and (name in ("href", "src")):
                self.links.append(value)
            if value is not None and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)


def dead_links(site: Path) -> list[str]:
    """Each as "page: link"."""
    pages = {
        path.resolve(): _Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
    }
    dead = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links start at the root of the web site
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            missing = not target.exists() or (
                anchor and target in pages and anchor not in pages[target].anchors
            )
            if missing and anchor != "__skip":
                dead.append(f"{path.relative_to(site.resolve())}: {link}")
    return dead


def main() -> int:
    dead = dead_links(Path(sys.argv[1]))
    print("\n".join([*dead, f"{len(dead)} dead links"]))
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
