"""The page at ``/`` and its files: read once, and kept by browsers for as long as they are the same."""

from collections.abc import Mapping
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, Final

from twisted.web.http import CACHED
from twisted.web.server import Request

from platziverse.web.answers import Answer, HTTPError, segments

#: What the page may load: what comes from here, and nothing that stands in the page itself. ADR 0169.
POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Where they are.
FOLDER: Final = Path(__file__).parent / "page"
#: Seconds of a year: as good as for ever.
FOREVER: Final = b"public, max-age=31536000, immutable"

_TYPES: Final = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "txt": b"text/plain; charset=utf-8",
}
_INDEX: Final = "index.html"
#: By the name that browsers ask for: the files of the chart library, which are there if the build had npm.
_LIBRARY: Final = {
    "uplot.js": "dist/uPlot.iife.min.js",
    "uplot.css": "dist/uPlot.min.css",
    "uplot.txt": "LICENSE",
}


class PageFiles(Answer):
    """A PageFiles answers ``/page/<build>/<name>``, and has what ``/`` is.

    An address with the build of another daemon, an older one perhaps, is answered with the file that there
    is, which the browser does not keep: the page then says itself that it is not of this daemon.

    :ivar index: answers ``/``.
    :ivar build: changes when a file does.
    """

    has_parts = True

    def __init__(self, version: str, folder: Path = FOLDER) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        found = _read(folder)
        html = found.pop(_INDEX)
        self.build = _digest(b"".join([html, *(found[name] for name in sorted(found))]))
        self._files = {name: (b'"%s"' % _digest(data).encode(), data) for name, data in found.items()}
        self.index = PageIndex(_filled(html, self.build, version, "uplot.js" in found))

    def answer(self, request: Request) -> bytes:
        """Return a file, or nothing if the client has it. :raises HTTPError: there is none of this name."""
        build, name = path if len(path := segments(request)) == 2 else ("", "")
        if name not in self._files:
            raise HTTPError(404, "not found")
        etag, data = self._files[name]
        request.setHeader(b"Content-Type", _TYPES[name.rpartition(".")[2]])
        if build == self.build:
            request.setHeader(b"Cache-Control", FOREVER)
        return b"" if request.setETag(etag) is CACHED else data


class PageIndex(Answer):
    """A PageIndex answers ``/`` with HTML, which no browser keeps: it names the build of its files."""

    def __init__(self, html: bytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._html = html

    def answer(self, request: Request) -> bytes:
        """Return the page."""
        request.setHeader(b"Content-Type", _TYPES["html"])
        request.setHeader(b"Content-Security-Policy", POLICY)
        return self._html


def _read(folder: Path) -> dict[str, bytes]:
    """Return the files by their names."""
    found = {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.is_file() and entry.name.rpartition(".")[2] in _TYPES
    }
    library = folder / "node_modules" / "uplot"
    if (library / _LIBRARY["uplot.js"]).is_file():
        found |= {name: (library / path).read_bytes() for name, path in _LIBRARY.items()}
    return found


def _filled(html: bytes, build: str, version: str, charts: bool) -> bytes:
    """Return the page with what it has to know before its script runs."""
    values: Mapping[str, Any] = {"BUILD": build, "VERSION": version, "CHARTS": "uplot" if charts else ""}
    for name, value in values.items():
        html = html.replace(b"{%s}" % name.encode(), escape(value).encode())
    return html


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]
