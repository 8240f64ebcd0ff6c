"""Expiring: what is over leaves the memory and the store, Sessions and Retained Messages. ADR 0206."""

from twisted.logger import Logger

from platziverse.broker.durable import Durable
from platziverse.broker.ports import RetainedStore
from platziverse.broker.records import Cleared
from platziverse.broker.retained import MANY
from platziverse.broker.sessions import MANY as MANY_SESSIONS
from platziverse.broker.sessions import Sessions
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.properties import store_properties

log = Logger("platziverse.broker.broker")


def expire_sessions(sessions: Sessions, traffic: Traffic, now: float) -> bool:
    """End Sessions of clients that have been absent too long; return whether there are more for certain.

    :param now: seconds of the steady clock.
    """
    expired = sessions.expire(now)
    traffic.sessions_expired += expired
    if expired:
        log.info("{count} Sessions of absent clients have expired (session_expiry)", count=expired)
    return expired == MANY_SESSIONS


def expire_retained(retained: RetainedStore, durable: Durable | None, traffic: Traffic, now: float) -> bool:
    """Forget Retained Messages that are over; return whether there were so many that others may be, too.

    A row goes if it is still the one of this message: whoever shares the store may have kept another. The
    end of a message is among its Properties, so one that has the same is over as well.

    :param durable: saves that they are gone; ``None``: they were never stored.
    :param now: seconds since the epoch.
    """
    over = retained.expire(now)
    traffic.retained_expired += len(over)
    if durable is not None:
        for message in over:
            durable.record(Cleared(message.topic, over=store_properties(message.properties)))
    return len(over) == MANY
