"""The page at ``/``: its files, and what browsers are told about them. What it does is seen in a browser."""

import re
import shutil
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from platziverse.web.files import FOLDER, PageFiles
from platziverse.web.settings import WebSettings
from platziverse.web.site import make_site
from tests.web.browser import REMOTE, Connection, Response

#: What must not be in a script: with it, text becomes markup or code.
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|\.style\b"
)


class PageCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        for name in FOLDER.iterdir():
            if name.is_file():
                shutil.copy(name, self.folder)
        self.site = self.of(PageFiles("1.2", self.folder))

    def of(self, files: PageFiles, settings: WebSettings | None = None) -> Connection:
        """A connection to a site with these files."""
        self.files = files
        pages = [("page", files)]
        return Connection(make_site(Clock(), settings or WebSettings(), str, pages, home=files.index))

    def get(self, name: str, **headers: str) -> Response:
        return self.site.request(f"/page/{self.files.build}/{name}", **headers)


class PageTests(PageCase):
    def test_the_page_is_html_that_is_not_kept_with_a_policy_of_its_own(self) -> None:
        response = self.site.request("/")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual(response.headers["cache-control"], "no-store")
        self.assertEqual(
            response.headers["content-security-policy"],
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        self.assertIn(b'data-version="1.2"', response.body)
        self.assertNotIn(b"{", response.body)

    def test_the_page_asks_only_for_files_that_there_are_below_its_own_address(self) -> None:
        html = self.site.request("/").body.decode()
        scripts = "".join(path.read_text() for path in self.folder.glob("*.js"))
        asked = re.findall(r'(?:href|src)="([^#"]*)"', html)
        asked += [f"page/{self.files.build}/{name}" for name in re.findall(r'from "\./(\w+\.js)"', scripts)]
        self.assertGreater(len(asked), 15)
        for path in asked:
            if path.startswith("api/"):
                continue
            self.assertEqual(self.site.request(f"/{path}").status, 200, path)
        self.assertEqual(re.findall(r"https?://(?!www\.w3\.org/)", html + scripts), [])

    def test_no_script_makes_markup_of_text(self) -> None:
        for path in self.folder.glob("*.js"):
            self.assertEqual(MARKUP.findall(path.read_text()), [], path.name)

    def test_nothing_stands_in_the_page_that_the_policy_refuses(self) -> None:
        html = self.site.request("/").body.decode()
        self.assertEqual(re.findall(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", html), [])


class FileTests(PageCase):
    def test_a_file_is_kept_for_ever_under_the_address_of_its_build(self) -> None:
        kinds = {"page.js": "text/javascript; charset=utf-8", "page.css": "text/css; charset=utf-8"}
        kinds["icon.svg"] = "image/svg+xml"
        for name, kind in kinds.items():
            response = self.get(name)
            self.assertEqual((response.status, response.headers["content-type"]), (200, kind))
            self.assertEqual(response.headers["cache-control"], "public, max-age=31536000, immutable")
            self.assertEqual(response.headers["x-content-type-options"], "nosniff")
            self.assertEqual(response.body, (self.folder / name).read_bytes())

    def test_a_file_that_the_browser_has_is_not_sent_again(self) -> None:
        etag = self.get("page.js").headers["etag"]
        self.assertRegex(etag, '^"[0-9a-f]{16}"$')
        again = self.get("page.js", If_None_Match=etag)
        self.assertEqual((again.status, again.body), (304, b""))
        self.assertEqual(again.headers["etag"], etag)
        self.assertEqual(self.get("page.js", If_None_Match='"other"').status, 200)

    def test_a_page_of_another_build_gets_the_files_that_there_are_and_keeps_none(self) -> None:
        """Row 485: an old tab, or one daemon of several that is newer than the other."""
        response = self.site.request("/page/0123456789abcdef/page.js")
        self.assertEqual((response.status, response.headers["cache-control"]), (200, "no-store"))
        self.assertEqual(response.body, (self.folder / "page.js").read_bytes())

    def test_the_build_changes_with_any_file(self) -> None:
        before = self.files.build
        self.assertEqual(PageFiles("1.2", self.folder).build, before)
        (self.folder / "page.css").write_text("body { margin: 0 }")
        self.assertNotEqual(PageFiles("1.2", self.folder).build, before)

    def test_what_is_no_file_of_the_page_is_not_there(self) -> None:
        """Row 486: nothing but the files that were read at the start can be asked for."""
        build = self.files.build
        names = [
            "package.json",
            "index.html",
            "../files.py",
            "..%2Ffiles.py",
            "%2e%2e/files.py",
            "",
            "page.js/x",
        ]
        for path in [f"/page/{build}/{name}" for name in names] + ["/page", "/page/", f"/page/{build}"]:
            response = self.site.request(path)
            self.assertEqual((response.status, response.json), (404, {"error": "not found"}), path)
        for method in ("POST", "PUT", "DELETE"):
            self.assertEqual(Connection(self.site.channel.site).request("/", method).status, 405)

    def test_the_page_is_for_whoever_may_read(self) -> None:
        self.assertEqual(Connection(self.site.channel.site, REMOTE).request("/").status, 403)
        path = f"/page/{self.files.build}/page.js"
        self.assertEqual(Connection(self.site.channel.site, REMOTE).request(path).status, 403)


class LibraryTests(PageCase):
    def test_without_the_chart_library_the_page_knows_that(self) -> None:
        self.assertIn(b'data-charts=""', self.site.request("/").body)
        for name in ("uplot.js", "uplot.css", "uplot.txt"):
            self.assertEqual(self.get(name).status, 404)

    def test_with_it_its_files_and_its_licence_are_there(self) -> None:
        library = self.folder / "node_modules/uplot"
        (library / "dist").mkdir(parents=True)
        for name, text in (("dist/uPlot.iife.min.js", "1"), ("dist/uPlot.min.css", "2"), ("LICENSE", "MIT")):
            (library / name).write_text(text)
        self.site = self.of(PageFiles("1.2", self.folder))
        self.assertIn(b'data-charts="uplot"', self.site.request("/").body)
        found = [self.get(name).body for name in ("uplot.js", "uplot.css", "uplot.txt")]
        self.assertEqual(found, [b"1", b"2", b"MIT"])


class OffTests(SynchronousTestCase):
    def test_without_the_page_there_is_a_list_of_links(self) -> None:
        site = make_site(Clock(), WebSettings(page=False), str)
        response = Connection(site).request("/")
        self.assertIn(b'<a href="/api/agents">', response.body)
        self.assertEqual(
            response.headers["content-security-policy"],
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
        )
        self.assertEqual(Connection(site).request("/page/x/page.js").status, 404)
