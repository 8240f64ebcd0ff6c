"""What becomes of an entry that the database refuses for its data."""

from attrs import evolve

from platziverse.agents.model import Entry, Rejection, Report


def instead_of(entry: Entry, reason: str) -> list[Entry] | None:
    """What to store in the place of ``entry``; ``None`` when nothing of it is left to try.

    A report becomes a rejection with its raw bytes, a rejection one that says the same in ASCII, which
    no database can misunderstand. The others are no messages, so nothing is lost without them: a name
    that the database cannot even compare, in another encoding than UTF-8, is in none of its rows.
    """
    if isinstance(entry, Report):
        return [evolve(_clean(entry.source), reason=_without_nul(f"the database refused it: {reason}"))]
    if isinstance(entry, Rejection):
        plain = evolve(
            entry,
            topic=_ascii(entry.topic),
            client_id=_ascii(entry.client_id),
            reason=_ascii(entry.reason),
        )
        return [plain] if plain != entry else None
    return []


def _clean(rejection: Rejection) -> Rejection:
    return evolve(rejection, topic=_without_nul(rejection.topic), client_id=_without_nul(rejection.client_id))


def _without_nul(text: str) -> str:
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _ascii(text: str) -> str:
    return text.replace("\0", "\\x00").encode("ascii", "backslashreplace").decode()
