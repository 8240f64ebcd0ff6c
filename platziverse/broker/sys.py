"""SysTopics: the broker's own figures under ``$SYS/broker/``, named as Mosquitto names them."""

from math import exp
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from platziverse.broker.broker import Broker
from platziverse.mqtt.details import VERSIONS

#: Minutes over which the load averages are taken.
LOADS: Final = (1, 5, 15)


class SysTopics:
    """SysTopics publishes the figures that have changed, every ``interval`` seconds.

    :param version: of the daemon.
    :param interval: seconds; 0 switches the topics off.
    """

    def __init__(self, broker: Broker, clock: IReactorTime, version: str, interval: float) -> None:
        self._broker = broker
        self._clock = clock
        self._version = version
        self._interval = interval
        self._began = clock.seconds()
        self._said: dict[str, str] = {}
        self._loads: dict[str, float] = {}
        self._before: dict[str, int] = {}
        self._maximum = 0
        self._loop = LoopingCall(self.publish)
        self._loop.clock = clock

    def start(self) -> None:
        """Publish now and at every interval."""
        if self._interval:
            self._loop.start(self._interval)

    def stop(self) -> None:
        """Publish no more."""
        if self._loop.running:
            self._loop.stop()

    def publish(self) -> None:
        """Announce every figure that has changed since the last time."""
        figures = {"version": f"platziverse version {self._version}", **self._state()}
        for name, total in (self._totals() | self._refusals()).items():
            figures[name] = str(total)
        figures.update(self._load_averages())
        for name, value in figures.items():
            if self._said.get(name) != value:
                self._said[name] = value
                self._broker.announce(f"$SYS/broker/{name}", value.encode(), retain=True)

    def _state(self) -> dict[str, str]:
        broker = self._broker
        self._maximum = max(self._maximum, broker.connected)
        queued = sum(session.queued + session.inflight for session in broker.sessions)
        return {
            "uptime": f"{int(self._clock.seconds() - self._began)} seconds",
            "clients/connected": str(broker.connected),
            "clients/active": str(broker.connected),
            "clients/disconnected": str(broker.sessions.absent),
            "clients/inactive": str(broker.sessions.absent),
            "clients/total": str(len(broker.sessions)),
            "clients/maximum": str(self._maximum),
            **{
                f"clients/protocol/{VERSIONS[level]}": str(n) for level, n in broker.traffic.connected.items()
            },
            "subscriptions/count": str(len(broker.subscriptions)),
            "retained messages/count": str(len(broker.retained)),
            "store/messages/count": str(queued + len(broker.retained)),
            "store/messages/bytes": str(broker.retained.bytes),
        }

    def _totals(self) -> dict[str, int]:
        traffic = self._broker.traffic
        return {
            "clients/expired": traffic.sessions_expired,
            "bytes/received": traffic.bytes_received,
            "bytes/sent": traffic.bytes_sent,
            "messages/received": traffic.messages_received,
            "messages/sent": traffic.messages_sent,
            "publish/messages/received": sum(traffic.publish_received),
            "publish/messages/sent": sum(traffic.publish_sent),
            "publish/messages/dropped": traffic.dropped,
            "publish/bytes/received": sum(traffic.publish_bytes_received),
            "publish/bytes/sent": sum(traffic.publish_bytes_sent),
        }

    def _refusals(self) -> dict[str, int]:
        """Return by topic how often a Reason Code of MQTT 5 has said no, by us or by a client."""
        figures: dict[str, int] = {}
        for (who, _, code), count in self._broker.traffic.refusals.items():
            topic = f"refusals/{who}/{code}"
            figures[topic] = figures.get(topic, 0) + count
        return figures

    def _load_averages(self) -> dict[str, str]:
        """Return exponential averages per minute by topic, computed as Mosquitto does."""
        traffic = self._broker.traffic
        now = {
            "messages/received": traffic.messages_received,
            "messages/sent": traffic.messages_sent,
            "publish/received": sum(traffic.publish_received),
            "publish/sent": sum(traffic.publish_sent),
            "publish/dropped": traffic.dropped,
            "bytes/received": traffic.bytes_received,
            "bytes/sent": traffic.bytes_sent,
            "sockets": traffic.connections_opened,
            "connections": traffic.connects_accepted,
        }
        figures: dict[str, str] = {}
        for name, total in now.items():
            per_minute = (total - self._before.get(name, 0)) * 60.0 / self._interval
            for minutes in LOADS:
                topic = f"load/{name}/{minutes}min"
                old = self._loads.get(topic, 0.0)
                new = per_minute + exp(-self._interval / (60.0 * minutes)) * (old - per_minute)
                self._loads[topic] = new
                figures[topic] = f"{new:.2f}"
        self._before = now
        return figures
