"""Backpressure: a receiver whose queue is full holds its publishers, for a while.

A burst is waited for: the publishers who feed a full queue, and nobody else, are not read from until half of
it is gone. A receiver that goes on taking too little is *too slow* after that: its messages are dropped
until it has caught up, and its publishers run free. Decided in ADR 0080.
"""

from twisted.internet.interfaces import IReactorTime

from platziverse.broker.complaints import Complaints
from platziverse.broker.interfaces import Client, NetworkConnection
from platziverse.broker.limits import Limits
from platziverse.broker.session import Session
from platziverse.broker.sessions import Sessions
from platziverse.broker.slow import Slow
from platziverse.broker.traffic import Traffic


class Backpressure:
    """A Backpressure decides for every full queue who waits for whom.

    :param complaints: where receivers that lose messages are named.
    """

    def __init__(
        self,
        limits: Limits,
        sessions: Sessions,
        traffic: Traffic,
        complaints: Complaints,
        clock: IReactorTime,
    ) -> None:
        # The number of the connection whose client was the last that was said to wait.
        self._mentioned = 0
        self._limits, self._sessions = limits, sessions
        self._traffic, self._complaints = traffic, complaints
        self._clock = clock

    def full(self, receiver: Session, client: Client) -> None:
        """Hold ``client``, whose message was queued for ``receiver``: the queue of that one is full."""
        now = self._clock.seconds()
        slow = receiver.slow
        if slow is None:
            slow = receiver.slow = Slow(self._limits, self._clock)
            if receiver.connection is not None:
                receiver.connection.release()  # held itself, it could acknowledge nothing
        publisher = self._publisher(client)
        if publisher is None or slow.too_slow:
            return
        left = slow.patience(now)
        if left <= 0:
            self._give_up(receiver, slow)
            return
        if not slow.holds:
            self._traffic.receiver_holds += 1
            slow.check = self._clock.callLater(left, self._look_again, receiver, slow)
        slow.hold(publisher)

    def _publisher(self, client: Client) -> NetworkConnection | None:
        """Return the connection that may be held, if there is one.

        A client whose own queue is full is not held: it could not acknowledge, and two that feed each other
        would wait for each other.
        """
        session = self._sessions.get(client.client_id)
        if session is None or session.client is not client or session.slow is not None:
            return None
        return session.connection

    def _look_again(self, receiver: Session, slow: Slow) -> None:
        left = slow.patience(self._clock.seconds())
        slow.check = None
        if left > 0:
            slow.check = self._clock.callLater(left, self._look_again, receiver, slow)
        else:
            self._give_up(receiver, slow)

    def _give_up(self, receiver: Session, slow: Slow) -> None:
        slow.too_slow = True
        slow.release()
        self._traffic.receivers_too_slow += 1
        if receiver.client is not None:
            self._complaints.warn(
                "too slow",
                "{address} {client_id!r} is too slow: its queue is full (max_queued_messages,"
                " max_queued_bytes, of a durable Session max_stored_bytes), and it has held its publishers"
                " for long enough (receiver_patience); its messages are dropped until it has caught up",
                address=receiver.client.address,
                client_id=receiver.client_id,
            )

    def waiting(self, receiver: Session) -> None:
        """Count that messages begin to wait for ``receiver``, which is ordinary."""
        self._traffic.queues_begun += 1
        client = receiver.client
        # Not again and again: a window that is kept full begins to wait many times a second.
        if client is not None and (client.number != self._mentioned or self._complaints.window is None):
            self._mentioned = client.number
            self._complaints.mention(
                "a window is full",
                "Messages for {address} {client_id!r} wait: it takes no more before it has acknowledged some"
                " (max_inflight)",
                address=client.address,
                client_id=receiver.client_id,
            )

    def too_large(self, receiver: Session) -> None:
        """Count a message that is larger than ``receiver``, of MQTT 5, takes packets."""
        self._traffic.publish_too_large += 1
        self._complaints.warn(
            "larger than a client takes",
            "A message is larger than {address} {client_id!r} takes packets, {most} bytes, and dropped for it"
            " (Maximum Packet Size)",
            address=receiver.client.address if receiver.client is not None else "",
            client_id=receiver.client_id,
            most=receiver.terms.largest,
        )

    def dropped(self, receiver: Session) -> None:
        """Count a message for ``receiver`` that found no room in its queue, or the older ones it made go."""
        # One line for each absence: whoever is absent may miss many.
        first = receiver.connection is None and receiver.dropped == receiver.dropped_before
        count = 1 + receiver.take_excess()
        self._traffic.publish_dropped += count
        receiver.dropped += count
        client = receiver.client
        if first and client is not None:
            self._complaints.warn(
                "queue of an absent client",
                "The queue of {client_id!r}, who is absent, is full (max_queued_messages,"
                " max_queued_bytes, of a durable Session max_stored_bytes);"
                " the {which} of its messages are dropped (queue_drop)",
                address=client.address,
                client_id=receiver.client_id,
                which=self._limits.queue_drop,
            )
