"""Writes the vectors: ``python -m tests.vectors.generate``. A test sees that the files are what this writes.

What is expected is written down here from the standard, field by field; nothing of the package is used.
"""

import json
from pathlib import Path
from typing import Any

from tests.vectors.acknowledgements import acknowledgements, empty_packets
from tests.vectors.connecting import connect_vectors, first_packets
from tests.vectors.five import five
from tests.vectors.framing import framing
from tests.vectors.matching import matching
from tests.vectors.publishing import publish_vectors
from tests.vectors.subscribing import subscribe_vectors, unsubscribe_vectors

HERE = Path(__file__).parent

FILES = {
    "FRAMING": framing,
    "FIRST": first_packets,
    "CONNECT": connect_vectors,
    "PUBLISH": publish_vectors,
    "ACKNOWLEDGEMENTS": acknowledgements,
    "SUBSCRIBE": subscribe_vectors,
    "UNSUBSCRIBE": unsubscribe_vectors,
    "MATCHING": matching,
    "EMPTY": empty_packets,
    "FIVE": five,
}


def contents() -> dict[str, str]:
    """File name → text."""
    return {f"{name}.json": dump(list(make())) for name, make in FILES.items()}


def dump(vectors: list[dict[str, Any]]) -> str:
    """One line per vector: a change is a line in a diff."""
    return "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in vectors) + "\n]\n"


def load(name: str) -> list[dict[str, Any]]:
    """The vectors of one file."""
    vectors: list[dict[str, Any]] = json.loads((HERE / name).read_text(encoding="utf-8"))
    return vectors


if __name__ == "__main__":
    for file_name, content in contents().items():
        (HERE / file_name).write_text(content, encoding="utf-8")
