"""The rules for Topic Names and Topic Filters (section 4.7).

Their length needs no check: it is sent in two bytes [MQTT-4.7.3-3].
"""

import re
from collections.abc import Sized
from typing import Final

from platziverse.mqtt.errors import MalformedPacket

#: Bounds of the Topic Names that the codec remembers: their number, and the bytes of each.
CACHED_TOPICS: Final = 16_384
CACHED_TOPIC_LENGTH: Final = 256
#: Control characters, and what is no character: many clients close their connection when they get one in a
#: Topic Name, at each reconnect if it is retained. Section 1.5.3 lets a Server close the publisher's instead.
_NO_CHARACTERS: Final = "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
_CONTROL: Final = re.compile(f"[\x01-\x1f\x7f-\x9f\ufdd0-\ufdef{_NO_CHARACTERS}]")
#: Below it, and its Client Identifier, is what a client is answered; see :func:`response_prefix`.
RESPONSES: Final = "$response/"
#: Topic Filters of one SUBSCRIBE or UNSUBSCRIBE; reading more would hold everybody up.
MAX_FILTERS: Final = 10_000


def check_topic_name(topic: str) -> None:
    """Check a Topic Name.

    :raises MalformedPacket: ``topic`` is no Topic Name.
    """
    if not topic:
        raise MalformedPacket("an empty Topic Name", "MQTT-4.7.3-1")
    if "+" in topic or "#" in topic:  # [MQTT-4.7.1-1]
        raise MalformedPacket(f"a wildcard in Topic Name {topic!r:.100}", "MQTT-3.3.2-2")
    if "\0" in topic:
        raise MalformedPacket("a NUL in a Topic Name", "MQTT-4.7.3-2")
    if not topic.isprintable() and (found := _CONTROL.search(topic)) is not None:
        raise MalformedPacket(f"U+{ord(found[0]):04X} in Topic Name {topic!r:.100}", "1.5.3")


def check_topic_filter(topic_filter: str) -> None:
    """Check a Topic Filter.

    :raises MalformedPacket: ``topic_filter`` is no Topic Filter.
    """
    if not topic_filter:
        raise MalformedPacket("an empty Topic Filter", "MQTT-4.7.3-1")
    if "\0" in topic_filter:
        raise MalformedPacket("a NUL in a Topic Filter", "MQTT-4.7.3-2")
    before = topic_filter.find("#")
    if (before > 0 and topic_filter[before - 1] != "/") or 0 <= before < len(topic_filter) - 1:
        raise MalformedPacket(f"# out of place in Topic Filter {topic_filter!r:.100}", "MQTT-4.7.1-2")
    if "+" in topic_filter:
        for level in topic_filter.split("/"):
            if "+" in level and level != "+":
                raise MalformedPacket(f"+ out of place in Topic Filter {topic_filter!r:.100}", "MQTT-4.7.1-3")


def response_prefix(client_id: str) -> str | None:
    """Return how all Topic Names begin that this client alone may subscribe to: its Response Information.

    :return: ``None``: there are none, as its Client Identifier has more than one level, or wildcards; or it
        would stand below another client's, or above it.
    """
    return f"{RESPONSES}{client_id}/" if client_id and not set("/+#") & set(client_id) else None


def is_anothers_response(client_id: str, topic: str) -> bool:
    """Return whether a Topic Name or Topic Filter is about what another client is answered.

    Wildcards in its first level match no such Topic Name. [MQTT-4.7.2-1]
    """
    if not topic.startswith(RESPONSES):
        return topic == RESPONSES[:-1]
    prefix = response_prefix(client_id)
    return prefix is None or not topic.startswith(prefix)


def check_count(topic_filters: Sized) -> None:
    """Check how many Topic Filters a packet has.

    :raises MalformedPacket: there are more than ``MAX_FILTERS``.
    """
    if len(topic_filters) > MAX_FILTERS:
        raise MalformedPacket(f"more than {MAX_FILTERS} Topic Filters in one packet", "4.8")


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether a Topic Filter matches a Topic Name: the definition, slow and plain.

    The broker's way is :class:`~platziverse.broker.subscriptions.SubscriptionTree`; tests compare the two.
    """
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):  # [MQTT-4.7.2-1]
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for index, name in enumerate(wanted):
        if name == "#":
            return True
        if index == len(levels) or name not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
