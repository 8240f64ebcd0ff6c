"""Places: where the durable Sessions of daemons that share our clients are, by what the store says."""

from attrs import frozen


@frozen
class StoredPlace:
    """A StoredPlace says where the durable Session of a client is.

    :ivar daemon: its owner; 0: one that does not share our clients. Below 0 it is nobody's, and that daemon
        has freed it.
    :ivar absent_since: when its client has gone; ``None``: it is connected.
    :ivar filters: of its Subscriptions.
    """

    session: int
    daemon: int
    absent_since: float | None
    filters: tuple[str, ...]


@frozen
class StoredInterest:
    """The Topic Filters of a durable Session of another daemon that shares our clients.

    :ivar daemon: its owner; or one that has died with it, to which it is owed what they match as well.
    """

    session: int
    daemon: int
    filters: tuple[str, ...]
