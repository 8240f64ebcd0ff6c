"""What the store raises on its own account."""


class StoreStopped(Exception):
    """The store was stopped before this was committed; nobody may acknowledge it."""

    def __init__(self) -> None:
        super().__init__("the daemon is stopping, and this was not committed")
