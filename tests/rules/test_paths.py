"""Singular queries of RFC 9535, beside another implementation of it."""

import json
import unittest
from importlib import import_module
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from platziverse.rules.paths import MISSING, Path, find, parse_path

try:
    oracle: Any = import_module("jsonpath_rfc9535")
except ImportError:
    oracle = None

KEYS = st.one_of(st.text("ab'\"\\/\n\x07\ud7ff😀é.[] ", max_size=3), st.integers(-3, 3))
TREES = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("ab'\"\\/\n\x07é.[] ", max_size=3), inner, max_size=3),
    ),
)


def written(key: "str | int", quote: str) -> str:
    """A segment in brackets."""
    if isinstance(key, int):
        return f"[{key}]"
    text = json.dumps(key, ensure_ascii="/" in key)[1:-1]
    if quote == "'":
        text = text.replace('\\"', '"').replace("'", "\\'")
    return f"[{quote}{text}{quote}]"


class PathTests(SynchronousTestCase):
    def test_names_and_indexes_become_keys(self) -> None:
        for text, keys in {
            "$": (),
            "$.a.b[0]['c d']": ("a", "b", 0, "c d"),
            '$["x\\"y"][-1]': ('x"y', -1),
            "$['\\'\\u00e9\\ud83d\\ude00\\n\\/']": ("'é😀\n/",),
            "$ .a [ 'b' ]": ("a", "b"),
            "$._ñ1": ("_ñ1",),
        }.items():
            self.assertEqual(parse_path(text), Path("$", keys), text)

    def test_an_item_is_another_root(self) -> None:
        path = parse_path("@.v")
        self.assertEqual(path.find({"v": 1}, {"v": 2}), 2)
        self.assertEqual(parse_path("$.v").find({"v": 1}, {"v": 2}), 1)

    def test_what_names_more_than_one_value_or_none_is_refused(self) -> None:
        for text in (
            "",
            "a.b",
            "$.",
            "$..a",
            "$[*]",
            "$.*",
            "$[0:1]",
            "$['a','b']",
            "$[?@.a]",
            "$[01]",
            "$[-0]",
            "$. a",
            "$.a ",
            " $",
            "$['\\q']",
            "$['\\ud800']",
            "$['\\\"']",
            "$[1e3]",
            "$['\n']",
            "$.1a",
            f"$[{2**53}]",
            f"$[{10**40}]",
        ):
            self.assertRaises(ValueError, parse_path, text)

    def test_what_is_not_there_is_missing(self) -> None:
        document = {"a": [1, {"b": None}], "t": "text"}
        for text in ("$.b", "$.a.b", "$.a[2]", "$.a[-3]", "$.t[0]", "$.a['0']", "$[0]", "$.t.x"):
            self.assertIs(parse_path(text).find(document, document), MISSING, text)
        self.assertIsNone(parse_path("$.a[1].b").find(document, document))
        self.assertEqual(parse_path("$.a[-2]").find(document, document), 1)

    @unittest.skipIf(oracle is None, "jsonpath-rfc9535 is not installed")
    @given(TREES, st.lists(KEYS, max_size=4), st.sampled_from("'\""))
    @example({"a": {"b": [1, 2]}}, ["a", "b", -1], "'")
    def test_it_finds_what_another_implementation_finds(self, tree: Any, keys: list[Any], quote: str) -> None:
        text = "$" + "".join(written(key, quote) for key in keys)
        path = parse_path(text)
        self.assertEqual(path.keys, tuple(keys))
        nodes = [node.value for node in oracle.find(text, tree)]
        found = find(tree, path.keys)
        self.assertEqual([] if found is MISSING else [found], nodes)

    @unittest.skipIf(oracle is None, "jsonpath-rfc9535 is not installed")
    @given(st.text("$@.[]'\"\\ab01-é \n*:,u", max_size=12).map(lambda text: f"${text}"))
    def test_it_reads_what_another_implementation_reads(self, text: str) -> None:
        try:
            path: Path | None = parse_path(text)
        except ValueError:
            path = None
        try:
            query = oracle.compile(text)
        except oracle.JSONPathError:
            query = None
        singular = query is not None and query.singular_query()
        self.assertEqual(path is not None, singular, text)
