"""Expiring: Retained Messages that are over leave the memory and the store. ADR 0206."""

from platziverse.broker.durable import Durable
from platziverse.broker.ports import RetainedStore
from platziverse.broker.records import Cleared
from platziverse.broker.retained import MANY
from platziverse.broker.traffic import Traffic
from platziverse.mqtt.properties import store_properties


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
