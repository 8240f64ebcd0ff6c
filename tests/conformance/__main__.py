"""``python -m tests.conformance`` writes docs/conformance.rst anew."""

from tests.conformance.marks import ROOT, in_code, in_tests, statements

DOCUMENT = ROOT / "docs/conformance.rst"
HEAD = """\
===============================
Conformance with MQTT 3.1.1
===============================

Every normative statement of the OASIS standard, in our words; the lines that obey it and the tests that
show it. Written by ``make conformance`` from the marks ``[MQTT-x.y.z-n]`` in the sources; a test sees that it
is up to date. {servers} statements bind a Server, {clients} bind Clients alone.
"""


def document() -> str:
    """The whole text."""
    code, tests = in_code(), in_tests()
    every = statements()
    servers = sum(statement.ours for statement in every)
    parts = [HEAD.format(servers=servers, clients=len(every) - servers)]
    for statement in every:
        number = f"MQTT-{statement.number}"
        parts.append(f"\n{number}\n{'-' * len(number)}\n\n{statement.meaning}\n")
        if statement.ours:
            parts.append(_list("Obeyed in", code.get(statement.number, [])))
            parts.append(_list("Shown by", tests.get(statement.number, [])))
        else:
            parts.append("\nAddressed to Clients.\n")
    return "".join(parts)


def _list(title: str, places: list[str]) -> str:
    return f"\n{title}:\n\n" + "".join(f"* ``{place}``\n" for place in places)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
