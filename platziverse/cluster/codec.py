"""Codec: frames of daemons as bytes.

A frame begins with the version of this format, its kind, and the incarnation of the daemon that sends it.
A text is two bytes of length and UTF-8; numbers are big-endian. The decoder takes nothing that the encoder
would not have made: whatever else comes is a ``ValueError``. Decided in ADR 0135.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import inf
from struct import Struct as Layout
from typing import Any, Final

from platziverse.cluster.frames import (
    ANOTHER,
    DURABLE,
    LIVE,
    Aborted,
    Align,
    Aligned,
    Changes,
    Closed,
    Done,
    Followed,
    Frame,
    Free,
    Kept,
    LetGo,
    Mark,
    Marked,
    Message,
    Mine,
    Moved,
    NotYours,
    Owed,
    Ready,
    Refused,
    Said,
    Several,
    Since,
    Snapshot,
    Stored,
    Unsure,
    Wanted,
)
from platziverse.cluster.interest import is_key
from platziverse.cluster.reader import Reader
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.topics import check_topic_name

#: The first byte of every frame: daemons with another format do not understand each other.
VERSION: Final = 1

_HEADER: Final = Layout(">BBI")
_NUMBER: Final = Layout(">Q")
_PAIR: Final = Layout(">QQ")
_LENGTH: Final = Layout(">H")
_SIZE: Final = Layout(">I")
_TIME: Final = Layout(">d")
_RETAIN: Final = 0x04
_BRIDGE: Final = 0x08
_NAMED: Final = 0x10
_PROPERTIES: Final = 0x20
_AFTER: Final = 0x40


def _text(text: str) -> bytes:
    data = text.encode()
    return _LENGTH.pack(len(data)) + data


@lru_cache(256)
def _sizes(count: int) -> Layout:
    """Return the layout of so many sizes."""
    return Layout(f">{count}I")


#: Texts that come again and again: Topic Names, and the names of publishers.
_TEXTS: Final = Memo(_text)


def encode(frame: Frame, incarnation: int) -> bytes:
    """Return the bytes of a frame.

    :param incarnation: of this daemon.
    """
    kind = _KINDS[type(frame)]
    return _HEADER.pack(VERSION, kind, incarnation) + _ENCODERS[kind](frame)


def decode(data: bytes) -> tuple[int, Frame]:
    """Return the incarnation of the sender, and the frame.

    :raises ValueError: these bytes are no frame of this version.
    """
    reader = Reader(data)
    version, kind, incarnation = reader.take(_HEADER)
    if version != VERSION:
        raise ValueError(f"version {version}, and {VERSION} is known here")
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise ValueError(f"kind {kind} is not known")
    frame = decoder(reader)
    if reader.left:
        raise ValueError(f"{reader.left} bytes too many")
    return incarnation, frame


def _encode_message(frame: Message) -> bytes:
    return _encode_head(frame) + frame.payload


def _encode_head(frame: Message) -> bytes:
    """Return everything of a message but its payload."""
    flags, names = frame.qos | (_PROPERTIES if frame.properties else 0), _TEXTS[frame.client_id]
    if frame.bridge:
        flags |= _BRIDGE
    if frame.username is not None:
        flags |= _NAMED
        names += _TEXTS[frame.username]
    if frame.version:
        flags |= _RETAIN
        names = _NUMBER.pack(frame.version) + names
    if frame.after:
        flags |= _AFTER
        names = _NUMBER.pack(frame.after) + names
    return b"%c%b%b%b" % (flags, _TEXTS[frame.topic], names, frame.properties)


def _decode_message(reader: Reader) -> Message:
    return _decode_head(reader, lambda: reader.rest(reader.left))


def _decode_head(reader: Reader, payload: Callable[[], bytes]) -> Message:
    flags, topic = reader.byte(0x7F), _TOPICS[reader.text()]
    after = reader.take(_NUMBER) if flags & _AFTER else 0
    if flags & _AFTER and not after:
        raise ValueError("a message behind nothing")
    version = reader.take(_NUMBER) if flags & _RETAIN else 0
    if flags & _RETAIN and not version:
        raise ValueError("a Retained Message without a version")
    client_id, username = reader.text(), reader.text() if flags & _NAMED else None
    bridge, properties = bool(flags & _BRIDGE), reader.properties() if flags & _PROPERTIES else b""
    return Message(topic, payload(), _qos(flags), version, client_id, username, bridge, properties, after)


def _encode_several(frame: Several) -> bytes:
    count, sizes = len(frame.payloads), map(len, frame.payloads)
    head = _encode_head(frame.message) + _SIZE.pack(count) + _sizes(count).pack(*sizes)
    return b"".join((head, *frame.payloads))


def _decode_several(reader: Reader) -> Several:
    message = _decode_head(reader, bytes)
    if message.version:
        raise ValueError("Retained Messages come one by one")
    count = reader.take(_SIZE)
    if not count or _SIZE.size * count > reader.left:
        raise ValueError("it is too short")
    sizes = reader.take(_sizes(count))
    return Several(message, reader.pieces(sizes if count > 1 else (sizes,)))


def _qos(flags: int) -> int:
    if flags & 3 == 3:
        raise ValueError("a QoS of 3")
    return flags & 3


def _checked_topic(topic: str) -> str:
    try:
        check_topic_name(topic)
    except MalformedPacket as error:
        raise ValueError(str(error)) from None
    return topic


#: Topic Names that were found to be some.
_TOPICS: Final = Memo(_checked_topic)


def _decode_kept(reader: Reader) -> Kept:
    message = _decode_message(reader)
    if not message.version:
        raise ValueError("a Retained Message without a version")
    return Kept(message)


def _encode_interests(interests: Sequence[tuple[str, int]]) -> bytes:
    return b"".join([b"%c%b" % (bits, _text(key)) for key, bits in interests])


def _decode_interests(reader: Reader, least: int) -> tuple[tuple[str, int], ...]:
    interests = []
    while reader.left:
        bits = reader.byte(LIVE | DURABLE)
        if bits < least:
            raise ValueError("a key that nobody listens to")
        key = reader.text()
        if not is_key(key):
            raise ValueError(f"{key!r:.100} is no key")
        interests.append((key, bits))
    return tuple(interests)


def _encode_changes(frame: Changes) -> bytes:
    return _NUMBER.pack(frame.number) + _encode_interests(frame.interests)


def _decode_changes(reader: Reader) -> Changes:
    return Changes(reader.take(_NUMBER), _decode_interests(reader, 0))


def _encode_snapshot(frame: Snapshot) -> bytes:
    ends = frame.first | frame.last << 1
    return _NUMBER.pack(frame.number) + b"%c" % ends + _encode_interests(frame.interests)


def _decode_snapshot(reader: Reader) -> Snapshot:
    number, ends = reader.take(_NUMBER), reader.byte(3)
    return Snapshot(number, bool(ends & 1), bool(ends & 2), _decode_interests(reader, LIVE))


def _client(frame: Mine | LetGo, flags: int) -> bytes:
    names = _text(frame.client_id)
    if frame.username is not None:
        flags |= 1
        names += _text(frame.username)
    return b"%c%b%b" % (flags, _TIME.pack(frame.since), names)


def _read_client(reader: Reader, most: int) -> tuple[int, str, str | None, float]:
    flags, since, client_id = reader.byte(most), _since(reader), reader.text()
    return flags, client_id, reader.text() if flags & 1 else None, since


def _encode_mine(frame: Mine) -> bytes:
    return _client(frame, frame.durable << 1 | frame.clean << 2)


def _decode_mine(reader: Reader) -> Mine:
    flags, client_id, username, since = _read_client(reader, 7)
    return Mine(client_id, username, since, bool(flags & 2), bool(flags & 4))


def _encode_let_go(frame: LetGo) -> bytes:
    return _NUMBER.pack(frame.number) + _client(frame, 0)


def _decode_let_go(reader: Reader) -> LetGo:
    number, (_, client_id, username, since) = reader.take(_NUMBER), _read_client(reader, 1)
    return LetGo(number, client_id, username, since)


def _encode_free(frame: Free) -> bytes:
    cuts = [number for cut in frame.cuts for number in cut]
    return b"".join(map(_NUMBER.pack, (frame.number, len(cuts) // 2, *cuts, *frame.identifiers)))


def _decode_free(reader: Reader) -> Free:
    number, count = reader.take(_NUMBER), reader.take(_NUMBER)
    if count > reader.left:
        raise ValueError("it is too short")
    cuts = tuple((reader.take(_NUMBER), reader.take(_NUMBER)) for _ in range(count))
    return Free(number, cuts, _numbers(reader))


def _encode_refused(frame: Refused) -> bytes:
    return b"%b%c%b" % (_NUMBER.pack(frame.number), frame.reason, _text(frame.owner))


def _decode_refused(reader: Reader) -> Refused:
    return Refused(reader.take(_NUMBER), reader.byte(ANOTHER), reader.text())


def _since(reader: Reader) -> float:
    since: float = reader.take(_TIME)
    if not 0 <= since < inf:
        raise ValueError("a time that is none")
    return since


def _encode_not_yours(frame: NotYours) -> bytes:
    return _TIME.pack(frame.since) + _text(frame.client_id) + _text(frame.owner)


def _decode_not_yours(reader: Reader) -> NotYours:
    since = _since(reader)
    return NotYours(reader.text(), reader.text(), since)


def _encode_owed(frame: Owed) -> bytes:
    positions = _PAIR.pack(frame.position, frame.previous)
    flags = frame.qos | _PROPERTIES if frame.properties else frame.qos
    return b"%b%c%b%b%b" % (positions, flags, _TEXTS[frame.topic], frame.properties, frame.payload)


def _decode_owed(reader: Reader) -> Owed:
    (position, previous), flags = reader.take(_PAIR), reader.byte(_PROPERTIES | 2)
    topic, qos = _TOPICS[reader.text()], _qos(flags)
    if flags & ~_PROPERTIES not in (1, 2):
        raise ValueError("a message at QoS 0 that is owed")
    properties = reader.properties() if flags & _PROPERTIES else b""
    return Owed(position, topic, reader.rest(reader.left), qos, previous, properties)


def _encode_align(frame: Align) -> bytes:
    return b"".join(map(_NUMBER.pack, (frame.number, frame.last, *frame.pending)))


def _decode_align(reader: Reader) -> Align:
    return Align(reader.take(_NUMBER), reader.take(_NUMBER), _numbers(reader))


def _numbers(reader: Reader) -> tuple[int, ...]:
    return tuple([reader.take(_NUMBER) for _ in range(-(-reader.left // _NUMBER.size))])


def _encode_numbers(frame: Any) -> bytes:
    return b"".join([_NUMBER.pack(getattr(frame, name)) for name in frame.__struct_fields__])


def _decode_numbers(frame: Any, reader: Reader) -> Any:
    return frame(*[reader.take(_NUMBER) for _ in frame.__struct_fields__])


_KINDS: Final[dict[type, int]] = {
    Message: 1,
    Changes: 2,
    Snapshot: 3,
    Wanted: 4,
    Ready: 5,
    Kept: 6,
    Since: 7,
    Said: 8,
    Mine: 9,
    NotYours: 10,
    Owed: 11,
    Done: 12,
    Align: 13,
    Aligned: 14,
    Stored: 15,
    Unsure: 16,
    Mark: 18,
    Marked: 19,
    LetGo: 20,
    Closed: 21,
    Followed: 22,
    Free: 23,
    Moved: 24,
    Aborted: 25,
    Refused: 26,
    Several: 28,
}
#: Frames that are numbers alone, or nothing.
_PLAIN: Final[tuple[type[Frame], ...]] = (
    *(Wanted, Ready, Since, Said, Done, Aligned, Stored, Unsure, Marked),
    *(Closed, Followed, Moved, Aborted),
)
_ENCODERS: Final[dict[int, Callable[[Any], bytes]]] = {
    **{_KINDS[frame]: _encode_numbers for frame in _PLAIN},
    1: _encode_message,
    2: _encode_changes,
    3: _encode_snapshot,
    6: lambda frame: _encode_message(frame.message),
    9: _encode_mine,
    10: _encode_not_yours,
    11: _encode_owed,
    12: lambda frame: _NUMBER.pack(frame.position),
    13: _encode_align,
    18: lambda frame: b"".join(map(_NUMBER.pack, (frame.number, *frame.inherited))),
    20: _encode_let_go,
    23: _encode_free,
    26: _encode_refused,
    28: _encode_several,
}
_DECODERS: Final[dict[int, Callable[[Reader], Frame]]] = {
    **{_KINDS[frame]: partial(_decode_numbers, frame) for frame in _PLAIN},
    1: _decode_message,
    2: _decode_changes,
    3: _decode_snapshot,
    6: _decode_kept,
    9: _decode_mine,
    10: _decode_not_yours,
    11: _decode_owed,
    13: _decode_align,
    18: lambda reader: Mark(reader.take(_NUMBER), _numbers(reader)),
    20: _decode_let_go,
    23: _decode_free,
    26: _decode_refused,
    28: _decode_several,
}
