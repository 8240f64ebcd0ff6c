"""What is measured: the load of each scenario, and which brokers take part."""

from typing import Any, Final

from attrs import field, frozen

#: Messages of QoS 0 that a publisher may be ahead of the subscribers: 64 KiB.
AHEAD: Final = 840
WINDOW: Final = 100
CONNECTIONS: Final = 10_000
#: amqtt takes a millisecond of CPU time for each connection.
CONNECTIONS_AMQTT: Final = 1000
ONE_SUBSCRIBER: Final = [["bench/+"]]
#: Ten clients with a hundred filters each.
COLD: Final = [[f"cold/{100 * client + number:04}/+/value" for number in range(100)] for client in range(10)]


@frozen
class Scenario:
    """A load, and how it is spoken of.

    :param number: of issue and documents; several may share one.
    :param unit: what is counted.
    :param job: fields of :class:`bench.generator.Job`.
    :param without: peers that cannot do it.
    :param port: of :class:`bench.peers.Running`.
    :param latency: whether how long an answer takes says something.
    """

    key: str
    number: int
    title: str
    unit: str
    job: dict[str, Any] = field(factory=dict)
    without: tuple[str, ...] = ()
    port: str = "mqtt"
    latency: bool = False


FLOWS: Final = (
    Scenario(
        "qos0",
        1,
        "QoS 0, 10 publishers to 1 subscriber",
        "delivery",
        {"publishers": 10, "subscribers": ONE_SUBSCRIBER, "deliveries": 1, "window": AHEAD},
    ),
    Scenario(
        "fanout",
        2,
        "QoS 0, 1 publisher to 100 subscribers",
        "delivery",
        {"subscribers": ONE_SUBSCRIBER * 100, "deliveries": 100, "window": AHEAD},
    ),
    Scenario(
        "qos1-in",
        3,
        "QoS 1 in, window 100, no subscriber",
        "PUBACK",
        {"publishers": 10, "qos": 1, "window": WINDOW},
    ),
    Scenario(
        "qos1",
        4,
        "QoS 1 in and out",
        "delivery",
        {"publishers": 10, "subscribers": ONE_SUBSCRIBER, "deliveries": 1, "qos": 1, "window": WINDOW},
    ),
    Scenario(
        "qos2",
        5,
        "QoS 2 in and out",
        "delivery",
        {"publishers": 10, "subscribers": ONE_SUBSCRIBER, "deliveries": 1, "qos": 2, "window": WINDOW},
        without=("relay",),
    ),
    Scenario(
        "pingpong-10",
        6,
        "QoS 1 in, window 1, 10 publishers",
        "PUBACK",
        {"publishers": 10, "qos": 1},
        latency=True,
    ),
    Scenario(
        "pingpong-100",
        6,
        "QoS 1 in, window 1, 100 publishers",
        "PUBACK",
        {"publishers": 100, "qos": 1},
        latency=True,
    ),
    Scenario(
        "cold",
        8,
        "QoS 0, 1,000 wildcard filters, new topics",
        "delivery",
        {"publishers": 10, "subscribers": COLD, "deliveries": 1, "messages": "new", "window": AHEAD},
    ),
    Scenario(
        "websocket",
        9,
        "as (1), over WebSocket",
        "delivery",
        {
            "publishers": 10,
            "subscribers": ONE_SUBSCRIBER,
            "deliveries": 1,
            "window": AHEAD,
            "websocket": True,
        },
        without=("relay",),
        port="websocket",
    ),
)
IDLE: Final = Scenario("idle", 7, "idle connections, Keep Alive 60", "connection", without=("relay",))
INGEST: Final = (
    Scenario("ingest-4", 10, "agent/message, 4 metrics, QoS 1, window 100", "row"),
    Scenario("ingest-20", 10, "agent/message, 20 metrics, QoS 1, window 100", "row"),
)
LATENCY: Final = Scenario("ingest-latency", 10, "agent/message, 50 a second", "PUBACK")
#: The load of (1), on the port that also takes HTTP and TLS, and on the one that takes MQTT alone.
PORTS: Final = Scenario(
    "ports", 11, "as (1), any protocol on the port or MQTT alone", "delivery", FLOWS[0].job
)

ALL: Final = (*FLOWS[:7], IDLE, *FLOWS[7:], *INGEST, LATENCY, PORTS)
