"""The house as a test: who may import whom, how long a file and a function may be."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.rooms import ABOVE, DECISIONS, ROOMS, Room, architecture, decisions, page

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "platziverse"

MAX_FILE = 400
MAX_BODY = 25
#: A file shorter than this, which one other file imports, says in FRAGMENTS why it is one.
SMALL = 60

#: Longer than the rule on purpose, each with its reason.
LONG_FILES: dict[str, str] = {}
LONG_BODIES: dict[str, str] = {}
FRAGMENTS = {
    "agents.vocabulary": "remembers up to 200,000 types of metric, which the recorder only asks about",
    "net.publications5": "another class of publications.py, which is as long as a file may be",
    "broker.expiring": "what is over leaves several stores, and the broker only says when to look",
    "broker.users": "refuses clients by a count of its own",
    "broker.wills": "counts after the client has gone, which clients.py knows nothing of any more",
    "bus.local": "the bus between daemons of one process",
    "bus.making": "the way from settings to a bus, for the daemon",
    "bus.redis": "one of several buses",
    "bus.sentinel": "one of several ways to find a server",
    "command.checkbus": "works without the extra that askredis.py needs",
    "cluster.awaited": "an order by positions, which knows nothing of copies and rows",
    "cluster.figures": "what web/metrics.py asks for, which the cluster itself knows nothing of",
    "command.cli": "the entry point of the program",
    "command.rollup": "a command of its own",
    "daemon.background": "the pipe of a twistd that waits, which the services know nothing of",
    "daemon.starting": "what a terminal shows while a start goes on, which the service only begins and ends",
    "door.reactor": "imports a reactor of Twisted, which nothing else may do",
    "durable.trial": "certainly good records, made up; statements.py makes statements of real ones",
    "embedded.log": "a file that grows, beside a process that runs",
    "ingest.statement": "the loop over kinds; each of them is elsewhere",
    "ingest.trial": "certainly good entries, made up; reports.py makes statements of real ones",
    "net.flapping": "counts connects by Client Identifier, over many connections",
    "net.flushes": "the end of a turn, for all connections",
    "net.rates": "the arithmetic of a rate, without a connection",
    "net.refusing": "an exception to what flow.py does, with a clock of its own",
    "rules.telegraf": "what one program sends, whichever format it has",
    "web.rejections": "paths of their own, which web/api.py only names, and what their readers may see",
    "web.index": "a page, which stands in for the real one",
    "postgres.presence": "one statement at the first start, before there is a lease",
    "service": "the name that embedders import",
}


#: Packages of other people that are there only with an extra of ours.
EXTRAS = ("hiredis", "rich")


@cache
def modules() -> list[tuple[str, Path, ast.Module]]:
    """Dotted name, path and syntax tree of every module of the product."""
    return [
        (
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"),
            path,
            ast.parse(path.read_text(), str(path)),
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


def imports(tree: ast.AST) -> Iterator[str]:
    """``a.b`` for ``import a.b``, and ``a.b.c`` for ``from a.b import c``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_module_level(child)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def wrong(room: Room, name: str) -> bool:
    if name.startswith("platziverse"):
        # The version is no room.
        return not within(name, room.ours) and name != "platziverse.__version__"
    root = name.split(".")[0]
    if root in sys.stdlib_module_names:
        return within(name, room.never)
    return not within(name, room.theirs)


class ImportTests(SynchronousTestCase):
    maxDiff = None

    def test_every_room_imports_only_what_the_table_allows(self) -> None:
        found = []
        for module, _, tree in modules():
            room = ROOMS.get(module.split(".")[1]) if "." in module else None
            if room is not None:
                found += [f"{module} imports {name}" for name in imports(tree) if wrong(room, name)]
        self.assertEqual(found, [])

    def test_the_table_allows_nothing_that_nobody_imports(self) -> None:
        found = []
        for name, room in ROOMS.items():
            package = f"platziverse.{name}"
            used = [
                one for module, _, tree in modules() if within(module, (package,)) for one in imports(tree)
            ]
            found += [
                f"{name}: {allowed}"
                for allowed in (*room.ours, *room.theirs)
                if allowed != package and not any(within(one, (allowed,)) for one in used)
            ]
        self.assertEqual(found, [])

    def test_every_package_is_a_room(self) -> None:
        packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
        self.assertEqual(packages - ROOMS.keys(), {"command", "config", "daemon"})

    def test_what_stands_above_is_imported_by_nobody_below(self) -> None:
        found = [
            f"{module} imports {name}"
            for module, _, tree in modules()
            for name in imports(tree)
            for above, users in ABOVE.items()
            if within(name, (above,)) and not within(module, (above, *users))
        ]
        self.assertEqual(found, [])

    def test_nobody_imports_the_reactor_at_module_level(self) -> None:
        found = [
            module
            for module, _, tree in modules()
            for node in at_module_level(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            and "twisted.internet.reactor" in imports(ast.Module([node], []))
        ]
        self.assertEqual(found, [])

    def test_makeservice_alone_imports_the_reactor(self) -> None:
        """Everybody else is given one."""
        found = [module for module, _, tree in modules() if "twisted.internet.reactor" in imports(tree)]
        self.assertEqual(found, ["platziverse.daemon.service"])

    def test_imports_are_absolute(self) -> None:
        found = [
            f"{module}: {name}" for module, _, tree in modules() for name in imports(tree) if name[0] == "."
        ]
        self.assertEqual(found, [])

    def test_the_plugin_imports_nothing_of_ours(self) -> None:
        plugin = ROOT / "twisted" / "plugins" / "platziverse_plugin.py"
        names = list(imports(ast.parse(plugin.read_text())))
        self.assertEqual(names, ["twisted.application.service.ServiceMaker"])


class InheritanceTests(SynchronousTestCase):
    maxDiff = None

    def test_no_class_has_more_than_one_class_of_ours_above_it(self) -> None:
        """Composition before inheritance: a chain of two bases is an object that was only cut into files."""
        found = [
            f"{cls.__module__}.{cls.__qualname__}: {', '.join(above)}"
            for module, _, _ in modules()
            for cls in classes(module)
            if isinstance(cls, type) and cls.__module__ == module
            if len(above := [base.__qualname__ for base in cls.__mro__[1:] if ours(base)]) > 1
        ]
        self.assertEqual(found, [])


def classes(module: str) -> list[object]:
    """Return what a module defines; nothing of one that needs an extra which is not installed."""
    try:
        return list(vars(importlib.import_module(module)).values())
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return []


def ours(cls: type) -> bool:
    return within(cls.__module__, ("platziverse",))


class PageTests(SynchronousTestCase):
    maxDiff = None

    def test_the_page_shows_the_tree_and_the_table_as_they_are(self) -> None:
        self.assertEqual(page(), architecture(page()), "run make conformance")

    def test_the_path_of_a_message_leads_through_methods_that_are_there(self) -> None:
        path = page().partition("\nThe path of one PUBLISH\n")[2].partition("\nA connection\n")[0]
        methods = {
            f"{node.name}.{method.name}"
            for _, _, tree in modules()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for method in node.body
            if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        named = set(re.findall(r"\b[A-Z]\w+\.[a-z]\w+\b", path))
        self.assertGreater(len(named), 8)
        self.assertEqual(named - methods, set())

    def test_the_index_of_decisions_names_every_page(self) -> None:
        index = (DECISIONS / "README.rst").read_text(encoding="utf-8")
        self.assertEqual(index, decisions(), "run make conformance")

    def test_decisions_are_numbered_as_their_files_and_say_why(self) -> None:
        pages = [path for path in DECISIONS.glob("*.rst") if path.stem != "README"]
        numbers = [path.name[:4] for path in pages]
        self.assertEqual(len(numbers), len(set(numbers)))
        for path in pages:
            text = path.read_text(encoding="utf-8")
            self.assertEqual(text[:5], f"{path.name[:4]} ", path.name)
            self.assertEqual([part for part in ("**Decided", "**Because") if part not in text], [], path.name)


class LengthTests(SynchronousTestCase):
    maxDiff = None

    def test_files_have_at_most_400_lines(self) -> None:
        found = {
            path.relative_to(ROOT).as_posix(): lines
            for _, path, _ in modules()
            if (lines := len(path.read_text().splitlines())) > MAX_FILE
        }
        self.assertEqual({name: found[name] for name in found.keys() - LONG_FILES.keys()}, {})
        self.assertEqual(LONG_FILES.keys() - found.keys(), set(), "no longer exceptions")

    def test_small_files_with_one_importer_say_why_they_are_files(self) -> None:
        trees = {module: (path, tree) for module, path, tree in modules() if path.name != "__init__.py"}
        importers: dict[str, set[str]] = {module: set() for module in trees}
        for module, _, tree in modules():
            for name in imports(tree):
                for imported in {name, name.rpartition(".")[0]} & importers.keys() - {module}:
                    importers[imported].add(module)
        found = {
            module.removeprefix("platziverse.")
            for module, (path, _) in trees.items()
            if len(path.read_text().splitlines()) < SMALL and len(importers[module]) < 2
        }
        self.assertEqual(found - FRAGMENTS.keys(), set(), "merge it, or give its reason in FRAGMENTS")
        gone = {name for name in FRAGMENTS if f"platziverse.{name}" not in trees}
        self.assertEqual(gone, set(), "no longer files")

    def test_function_bodies_have_at_most_25_lines(self) -> None:
        found = {
            f"{module}.{node.name}": lines
            for module, _, tree in modules()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (lines := body_length(node)) > MAX_BODY
        }
        self.assertEqual({name: found[name] for name in found.keys() - LONG_BODIES.keys()}, {})
        self.assertEqual(LONG_BODIES.keys() - found.keys(), set(), "no longer exceptions")


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement to the last, without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


#: Private names of Twisted that tests need, each with its reason.
TWISTEDS = {
    "_tempDataBuffer": "what a transport has not sent yet is in two places",
    "_internalReaders": "the waker of a reactor that was never run is closed by nobody",
    "_poller": "so is its epoll",
}


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every private name that is used on something else than ``self``."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if own or ast.unparse(node.value) == "super()" else [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("self.patch", "getattr", "setattr"):
            thing, second, *_ = node.args
            named = isinstance(second, ast.Constant) and ast.unparse(thing) != "self"
            names = [ast.literal_eval(second)] if named else []
        for name in names:
            if name.startswith("_") and not name.endswith("__") and name not in TWISTEDS:
                yield getattr(node, "lineno", 0), name


class PrivacyTests(SynchronousTestCase):
    maxDiff = None

    def test_tests_use_no_private_names(self) -> None:
        """What cannot be seen from outside need not be tested; what can be is tested so."""
        tests = ROOT / "tests"
        found = [
            f"{path.relative_to(ROOT)}:{line}: {name}"
            for path in sorted(tests.rglob("*.py"))
            for line, name in private_names(ast.parse(path.read_text()))
        ]
        self.assertEqual(found, [])


class WordTests(SynchronousTestCase):
    def test_nothing_is_called_by_an_empty_word(self) -> None:
        """Manager, Helper, Util and Context say nothing about what a thing does."""
        found = [
            f"{module}: {node.name}"
            for module, _, tree in modules()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            if any(word in node.name for word in ("Manager", "Helper", "Util", "Context"))
        ]
        self.assertEqual(found, [])
