"""Interest: which daemons have clients that listen to a topic, and which topics ours listen to.

A *key* stands for all Topic Filters with the same levels before their first wildcard: the filter itself when
there is none, otherwise these levels and ``#``. So it is a Topic Filter too, and matches all that they match.
Decided in ADR 0136.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from attrs import define

from platziverse.broker.shares import filter_behind, is_shared
from platziverse.broker.subscriptions import SubscriptionTree
from platziverse.cluster.frames import DURABLE, LIVE
from platziverse.mqtt.errors import MalformedPacket
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.topics import check_topic_filter

#: What begins so is about one daemon, and is never announced.
SYS: Final = "$SYS/"
#: Keys that are looked at in one step.
FEW: Final = 1000
#: Bytes that remembered groups of Topic Names take at most, roughly.
GROUPS_SIZE: Final = 4 * 1024 * 1024
#: Masks of which one object each is kept.
MASKS: Final = 4096

#: Of the numbers that :class:`OwnInterest` keeps: one Subscription of a Session that ends with its
#: connection, and one of a durable one. The lowest two bits are what the others were told.
_LIVE_ONE: Final = 1 << 2
_DURABLE_ONE: Final = 1 << 33
_TOLD: Final = LIVE | DURABLE


def key_of(topic_filter: str) -> str:
    """Return the key of a Topic Filter; that of a Shared Subscription is the whole, as it names a group."""
    if is_shared(topic_filter):
        return topic_filter
    if "+" not in topic_filter and "#" not in topic_filter:
        return topic_filter
    levels = topic_filter.split("/")
    before = next(number for number, level in enumerate(levels) if level in ("+", "#"))
    return "/".join([*levels[:before], "#"])


def is_key(key: str) -> bool:
    """Return whether ``key`` is a key of an interest: a Topic Filter without ``+``, or that of a group."""
    try:
        check_topic_filter(key)
    except MalformedPacket:
        return False
    return filter_behind(key) != "" if is_shared(key) else "+" not in key


@define
class _Origin:
    """An _Origin has the slot of a daemon that counts, and another one while a snapshot is coming.

    :ivar whole: there was a snapshot.
    :ivar gone: the daemon is not there; its durable Sessions are, in the store.
    :ivar stored: what its durable Sessions listen to is known, though it has not told since it has begun.
    """

    slot: int
    coming: int | None = None
    whole: bool = False
    gone: bool = False
    stored: bool = False


class Interest:
    """An Interest maps key → daemons that have Subscriptions with it.

    Daemons have numbers up to 32,767, so each gets a *slot*, the lowest that is free, and a key has one
    number: two bits for each slot. A snapshot fills a slot of its own, which then takes the place of the old
    one; what an old slot has left is swept later.

    :param forget: called with each key whose daemons have changed.
    :param later: is given the steps of work that can wait.
    """

    def __init__(self, forget: Callable[[str], None], later: "Callable[[Iterator[None]], object]") -> None:
        self._forget, self._later = forget, later
        # The filter behind the name → keys of groups; and what is called when there is one.
        self._groups: SubscriptionTree[str] = SubscriptionTree(GROUPS_SIZE)
        self.grouped: Callable[[], None] = lambda: None
        self._keys: dict[str, int] = {}
        self._origins: dict[int, _Origin] = {}
        # Slot → number of its daemon; ``None``: the slot is swept, or free.
        self._daemons: list[int | None] = []
        self._free: list[int] = []
        # A million keys have few different masks: one object for all that are equal saves 32 bytes a key.
        self._masks: Memo[int, int] = Memo(lambda mask: mask, MASKS, lambda mask, same: 1)
        self._buses: Memo[int, tuple[int, int]] = Memo(self._translate, MASKS, lambda mask, found: 1)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)

    def __contains__(self, daemon: int) -> bool:
        """Return whether the interest of this daemon is known, all of it."""
        origin = self._origins.get(daemon)
        return origin is not None and origin.whole

    @property
    def gone(self) -> list[int]:
        """Return the daemons that are not there, as far as we know, and whose durable Sessions count."""
        return [daemon for daemon, origin in self._origins.items() if origin.stored]

    # -- what others say -------------------------------------------------------------------------

    def change(self, daemon: int, interests: Iterable[tuple[str, int]]) -> None:
        """Take what a daemon says about some keys; of one that has sent no snapshot it counts already.

        A daemon that begins has clients before it has its durable Sessions: what is known of these stays.
        """
        origin, interests = self._origin(daemon), tuple(interests)
        if origin.gone:
            origin.gone = False
            self._changed()
        self._set(origin.slot, interests, DURABLE if origin.stored else 0)
        if origin.coming is not None:
            self._set(origin.coming, interests)

    def stored(self, daemon: int, keys: Iterable[str]) -> None:
        """Take from the store what durable Sessions of a daemon listen to; it stays until its snapshot."""
        origin = self._origin(daemon)
        origin.stored = True
        self._set(origin.slot, [(key, DURABLE) for key in keys], LIVE)

    def snapshot(self, daemon: int, first: bool, last: bool, interests: Iterable[tuple[str, int]]) -> bool:
        """Take a part of all the interest of a daemon.

        :param first: what came before it is given up when the last part has come.
        :return: whether it is whole now.
        """
        origin = self._origin(daemon)
        if first:
            self._sweep(origin.coming)
            origin.coming = self._take_slot(daemon)
        if origin.coming is None:
            return False  # its first part was lost
        self._set(origin.coming, interests)
        if last:
            old, origin.slot, origin.coming = origin.slot, origin.coming, None
            origin.whole, origin.gone, origin.stored = True, False, False
            self._sweep(old)
        return last

    def _origin(self, daemon: int) -> _Origin:
        origin = self._origins.get(daemon)
        if origin is None:
            origin = self._origins[daemon] = _Origin(self._take_slot(daemon))
        return origin

    def is_coming(self, daemon: int) -> bool:
        """Return whether a snapshot of this daemon has begun, and is not whole."""
        origin = self._origins.get(daemon)
        return origin is not None and origin.coming is not None

    def interrupt(self, daemon: int) -> None:
        """Take no more parts of a snapshot that is coming: some may be lost."""
        origin = self._origins.get(daemon)
        if origin is not None:
            self._sweep(origin.coming)
            origin.coming = None

    def keep(self, daemon: int) -> None:
        """Note that a daemon has gone: what its durable Sessions listen to counts, until it says more."""
        self.interrupt(daemon)
        origin = self._origins.get(daemon)
        if origin is not None:
            origin.whole, origin.gone, origin.stored = False, True, True
            self._changed()

    def drop(self, daemon: int) -> None:
        """Forget a daemon that has gone, and its durable Sessions."""
        origin = self._origins.pop(daemon, None)
        if origin is not None:
            self._sweep(origin.slot)
            self._sweep(origin.coming)

    def _set(self, slot: int, interests: Iterable[tuple[str, int]], kept: int = 0) -> None:
        """Note the bits of some keys.

        :param kept: bits that stay as they are when they are set.
        """
        keys, masks, shift = self._keys, self._masks, 2 * slot
        gone = ~((3 & ~kept) << shift)
        for key, bits in interests:
            old = keys.get(key, 0)
            new = old & gone | bits << shift
            if new == old:
                continue
            if new:
                keys[key] = masks[new]
            else:
                del keys[key]
            if is_shared(key):
                self._regroup(key, bool(new))
            else:
                self._forget(key)

    def _regroup(self, key: str, there: bool) -> None:
        """Note whether anybody else has members of a group."""
        behind = filter_behind(key)
        if there:
            self._groups.add(behind, key, 0)
            self.grouped()
        else:
            self._groups.remove(behind, key)
        self._forget(behind)

    # -- slots -----------------------------------------------------------------------------------

    def _take_slot(self, daemon: int) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot = len(self._daemons)
            self._daemons.append(None)
        self._daemons[slot] = daemon
        self._buses.clear()
        return slot

    def _sweep(self, slot: int | None) -> None:
        """Give a slot up: from now on it is nobody's, and free when no key names it any more."""
        if slot is not None:
            self._daemons[slot] = None
            self._changed()
            self._later(self._swept(slot))

    def _changed(self) -> None:
        """Forget everything that was found before."""
        self._buses.clear()
        self._forget("#")

    def _swept(self, slot: int) -> Iterator[None]:
        keys, bits = self._keys, 3 << 2 * slot
        for number, key in enumerate(list(keys), 1):
            mask = keys.get(key, 0)
            if mask & bits:
                if mask & ~bits:
                    keys[key] = self._masks[mask & ~bits]
                else:
                    del keys[key]
                    if is_shared(key):
                        self._regroup(key, False)
            if not number % FEW:
                yield
        self._free.append(slot)

    # -- what is asked ---------------------------------------------------------------------------

    def daemons(self, topic: str) -> tuple[int, int]:
        """Return the daemons with clients that may listen to a Topic Name, as masks of the bus.

        :return: those with Sessions that end with their connection, and those with durable ones.
        """
        keys = self._keys
        mask = keys.get(topic, 0) | keys.get(topic + "/#", 0)
        end = topic.rfind("/")
        while end >= 0:
            mask |= keys.get(topic[: end + 1] + "#", 0)
            end = topic.rfind("/", 0, end)
        if not topic.startswith("$"):  # [MQTT-4.7.2-1]
            mask |= keys.get("#", 0)
        return self._buses[mask]

    def groups(self, topic: str) -> list[str]:
        """Return the keys of the groups that listen to a Topic Name and have members elsewhere."""
        return [key for key, _ in self._groups.match(topic)]

    def members(self, key: str) -> tuple[int, int]:
        """Return the daemons that have members of a group, as :meth:`daemons` does: connected, and kept."""
        return self._buses[self._keys.get(key, 0)]

    def _translate(self, mask: int) -> tuple[int, int]:
        live = durable = 0
        for slot, daemon in enumerate(self._daemons):
            bits = mask >> 2 * slot & 3
            if daemon is not None:
                if not self._origins[daemon].gone:
                    live |= (bits & LIVE) << daemon
                durable |= (bits >> 1) << daemon
        return live, durable


class OwnInterest:
    """An OwnInterest counts the Subscriptions of our clients by key, and knows what the others were told.

    A key that nobody listens to any more is told some time later: who comes back soon has nothing to wait
    for, and clients that come and go do not trouble all daemons.
    """

    def __init__(self) -> None:
        # Key → both counts and what was told: one small number instead of three.
        self._counts: dict[str, int] = {}
        self._changed: dict[str, None] = {}
        self._fading: dict[str, None] = {}

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._counts)

    def add(self, topic_filter: str, durable: bool) -> None:
        """Count a Subscription."""
        key = key_of(topic_filter)
        if key.startswith(SYS):
            return
        old = self._counts.get(key, 0)
        new = self._counts[key] = old + (_DURABLE_ONE if durable else _LIVE_ONE)
        if _bits(new) != _bits(old):
            self._changed[key] = None

    def remove(self, topic_filter: str, durable: bool) -> None:
        """Count a Subscription no more.

        :raises KeyError: it was not counted.
        """
        key = key_of(topic_filter)
        if key.startswith(SYS):
            return
        old = self._counts[key]
        new = self._counts[key] = old - (_DURABLE_ONE if durable else _LIVE_ONE)
        if _bits(new) != _bits(old):
            self._fading[key] = None

    @property
    def is_changed(self) -> bool:
        """Return whether the others have to be told something now."""
        return bool(self._changed)

    def changes(self) -> list[tuple[str, int]]:
        """Return the keys, and bits, of new interest; the others are told of it now."""
        changed, self._changed = self._changed, {}
        return [told for key in changed if (told := self._tell(key, keep=True)) is not None]

    def faded(self) -> list[tuple[str, int]]:
        """Return the keys, and bits, that the others are told of now, as fewer listen."""
        fading, self._fading = self._fading, {}
        return [told for key in fading if (told := self._tell(key, keep=False)) is not None]

    def _tell(self, key: str, keep: bool) -> tuple[str, int] | None:
        """Return what to say about a key, if that is not what was said.

        :param keep: what was said and is over is still said.
        """
        number = self._counts.get(key)
        if number is None:
            return None
        told = number & _TOLD
        bits = _bits(number) | told if keep else _bits(number)
        if number >> 2 or bits:
            self._counts[key] = number & ~_TOLD | bits
        else:
            del self._counts[key]
        return (key, bits) if bits != told else None

    def parts(self) -> Iterator[list[tuple[str, int]]]:
        """Return all that the others were told, in parts; each is as it is when it is asked for."""
        keys = list(self._counts)
        for begin in range(0, len(keys), FEW):
            some = [(key, self._counts.get(key, 0) & _TOLD) for key in keys[begin : begin + FEW]]
            yield [told for told in some if told[1]]


def _bits(number: int) -> int:
    return (LIVE if number & _DURABLE_ONE - _LIVE_ONE else 0) | (DURABLE if number >= _DURABLE_ONE else 0)
