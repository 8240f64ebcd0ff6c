"""``python -m tests.conformance`` writes docs/conformance.rst and docs/bad-inputs.rst anew.

And the tree and the table of docs/architecture.rst, and the index of docs/adr.
"""

from tests.conformance.marks import MARK5, ROOT, in_code, in_tests, rows, rows_in_tests, statements
from tests.rooms import DECISIONS, PAGE, architecture, decisions, page

DOCUMENT = ROOT / "docs/conformance.rst"
BAD_INPUTS = ROOT / "docs/bad-inputs.rst"
HEAD = """\
===============================
Conformance with MQTT 3.1.1
===============================

Every normative statement of the OASIS standard, in our words; the lines that obey it and the tests that
show it. Written by ``make conformance`` from the marks ``[MQTT-x.y.z-n]`` in the sources; a test sees that it
is up to date. {servers} statements bind a Server, {clients} bind Clients alone.
"""
#: What is not met, or not there, as CONNACK says; why.
UNMET = {
    "3.1.3-9": "Met while the daemon lives: at its start the Wills of before are published at once.",
}
#: Obeyed by the same lines as a statement of MQTT 3.1.1: number there → number here.
SAME = dict(line.split() for line in (ROOT / "tests/conformance/same5.txt").read_text().splitlines())
HEAD5 = """
Conformance with MQTT 5
=======================

The statements of the OASIS standard of March 2019 likewise, from the marks ``[MQTT5-x.y.z-n]``. {servers} of
them bind a Server, {clients} bind Clients alone. {marked} have lines and tests of their own, {same} are
obeyed by the same lines as one of MQTT 3.1.1, and {unmet} are not met, or about what is not there.
"""
BAD_INPUTS_HEAD = """\
=====================
Bad inputs and faults
=====================

What has brought other brokers and recorders down, and the tests that show what it does here. Written by
``make conformance`` from the numbers in the tests and in the vectors; a test sees that it is up to date, and
that no number is without a test.
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
    return "".join(parts) + document5()


def document5() -> str:
    """The part about MQTT 5."""
    code, tests, parts = in_code(MARK5), in_tests(MARK5), list[str]()
    ours = [statement.number for statement in statements("statements5") if statement.ours]
    met = [number for number in ours if number not in UNMET]
    marked = [number for number in met if number in code and number in tests]
    same = [number for number in met if number in SAME and number not in marked]
    clients = len(statements("statements5")) - len(ours)
    counts = {"servers": len(ours), "clients": clients, "marked": len(marked), "same": len(same)}
    parts.append(HEAD5.format(unmet=len(ours) - len(met), **counts))
    for statement in statements("statements5"):
        title = f"MQTT5-{statement.number}"
        parts.append(f"\n{title}\n{'-' * len(title)}\n\n{statement.meaning}\n")
        if statement.number in UNMET:
            parts.append(f"\n{UNMET[statement.number]}\n")
        elif not statement.ours:
            parts.append("\nAddressed to Clients.\n")
        elif statement.number in SAME:
            parts.append(f"\nAs MQTT-{SAME[statement.number]}, by the same lines.\n")
        for name, places in (("Obeyed in", code), ("Shown by", tests)):
            if found := places.get(statement.number):
                parts.append(_list(name, found))
    return "".join(parts)


def bad_inputs() -> str:
    """The whole text of the other one."""
    tests, parts = rows_in_tests(), [BAD_INPUTS_HEAD]
    for number, what in rows().items():
        title = f"{number}. {what}"
        parts.append(f"\n{title}\n{'-' * len(title)}\n{_list('Shown by', tests.get(number, []))}")
    return "".join(parts)


def _list(title: str, places: list[str]) -> str:
    return f"\n{title}:\n\n" + "".join(f"* ``{place}``\n" for place in places)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    BAD_INPUTS.write_text(bad_inputs(), encoding="utf-8")
    PAGE.write_text(architecture(page()), encoding="utf-8")
    (DECISIONS / "README.rst").write_text(decisions(), encoding="utf-8")
