"""Arguments: types of arguments that several commands have."""

import argparse

from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.topics import check_topic_filter


def topic_filter(text: str) -> str:
    """Return the argument when it is a Topic Filter.

    :raises argparse.ArgumentTypeError: it is none; argparse says so.
    """
    try:
        check_topic_filter(text)
    except MalformedPacket as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
