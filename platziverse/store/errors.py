"""What the store raises on its own account."""


class StoreStopped(Exception):
    """The store was stopped before this was committed; nobody may acknowledge it."""
