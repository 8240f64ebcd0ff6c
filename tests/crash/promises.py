"""What must be true of durable Sessions, their messages and Retained Messages while everybody is quiet.

As :mod:`tests.crash.invariants` does for agents: the load and the :class:`~tests.crash.deliveries.Deliveries`
see to order, copies and Packet Identifiers as packets come; this module looks for what has not come, and for
what has been left behind.
"""

import socket
import time
from collections.abc import Mapping
from typing import Final

from tests.crash import wire
from tests.crash.invariants import Execute
from tests.crash.ledger import Ledger
from tests.crash.load import Load
from tests.crash.waiting import TooLate, poll

_WAITING: Final = """SELECT "clientId", count(*), min(seq), max(seq), min(flags)
    FROM mqtt_queue JOIN mqtt_sessions ON id = session WHERE "clientId" = ANY(%s) GROUP BY "clientId" """
_OF_NOBODY: Final = "SELECT count(*) FROM mqtt_queue WHERE session NOT IN (SELECT id FROM mqtt_sessions)"
_WITHOUT_MESSAGE: Final = """SELECT count(*) FROM mqtt_queue
    WHERE message IS NOT NULL AND message NOT IN (SELECT id FROM mqtt_messages) AND flags & 8 = 0"""
_LEFT: Final = """SELECT count(*) FROM mqtt_messages
    WHERE NOT EXISTS (SELECT FROM mqtt_queue WHERE message = mqtt_messages.id)"""
_IDENTIFIERS: Final = (
    """SELECT "clientId", count(*) FROM qos2_messages WHERE "clientId" = ANY(%s) GROUP BY 1"""
)


def check_delivered(load: Load, execute: Execute, patience: float) -> float:
    """Whoever is connected has got everything that is promised, and no row is left; the seconds it took."""
    names = load.settled()

    def drained() -> bool:
        return not execute(_WAITING, (names,)) and set(names) <= set(load.settled())

    try:
        took = poll(drained, patience, "the queues are empty", 0.05)
    except TooLate as error:
        busy = set(names) - set(load.settled())
        text = f"{error}: {execute(_WAITING, (names,))[:5]}, busy {sorted(busy)}"
        load.ledger.violation("queue not empty", text)
        took = patience
    load.ask(lambda: load.deliveries.settle(names))
    return took


def check_left_behind(load: Load, execute: Execute, patience: float) -> None:
    """No row refers to nothing, and no message is left that nobody waits for: ADR 0129."""
    for rule, sql in (("row of no Session", _OF_NOBODY), ("row without its message", _WITHOUT_MESSAGE)):
        ((count,),) = execute(sql)
        if count:
            load.ledger.violation(rule, f"{count} in mqtt_queue")
    names = [one.name for one in load.publishers]
    try:
        poll(lambda: execute(_LEFT) == [(0,)], patience, "messages go with their last row", 0.05)
    except TooLate as error:
        load.ledger.violation("messages of nobody", f"{error}: {execute(_LEFT)} in mqtt_messages")
    try:
        poll(lambda: not execute(_IDENTIFIERS, (names,)), patience, "Packet Identifiers are released", 0.05)
    except TooLate as error:
        load.ledger.violation("Packet Identifiers left", f"{error}: {execute(_IDENTIFIERS, (names,))[:5]}")


def check_nothing_dropped(ledger: Ledger, scraped: "Mapping[str, float] | None") -> None:
    """No counter says that a message was dropped; of full queues the log tells, see ``check_log``."""
    for name, value in (scraped or {}).items():
        # This one also counts QoS 0 for connections that have just been reset.
        if "dropped" in name and value and name != "platziverse_messages_dropped_total":
            ledger.violation("dropped", f"{name} is {value:.0f}")


def check_retained(load: Load, port: int, patience: float) -> None:
    """A new Subscription brings the message of each topic that was published, and acknowledged, last."""
    wanted = {topic: payload for topic, payload in load.deliveries.retained.items() if payload}
    found = retained(port, "kept/#", wanted, patience)
    for topic in sorted(wanted.keys() | found.keys()):
        if wanted.get(topic) != found.get(topic):
            text = f"{topic}: {(found.get(topic) or b'')[:40]!r}, not {(wanted.get(topic) or b'')[:40]!r}"
            load.ledger.violation("another Retained Message", text)


def retained(
    port: int, topic_filter: str, wanted: Mapping[str, bytes], patience: float
) -> "dict[str, bytes]":
    """Topic Name → payload of the Retained Messages that a new client gets.

    :param wanted: when it has got these, it waits no longer than a moment for others.
    """
    found: dict[str, bytes] = {}
    buffer, give_up = bytearray(), time.monotonic() + patience
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as sock:
        sock.sendall(wire.connect("newcomer", True, 60) + wire.subscribe(topic_filter, 0, 1))
        while time.monotonic() < give_up:
            try:
                data = sock.recv(65536)
            except TimeoutError:
                if found == wanted:
                    break
                continue
            if not data:
                break
            buffer += data
            for first, body in wire.split(buffer):
                if first >> 4 == wire.PUBLISH:
                    message = wire.received(first, body)
                    found[message.topic] = message.payload
    return found
