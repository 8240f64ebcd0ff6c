"""Connection strings of PostgreSQL, and what of them is never shown."""

from typing import Final

from psycopg2.extensions import make_dsn, parse_dsn

#: Connection parameters that are never shown, and what is shown in their place.
SECRETS: Final = ("password", "sslpassword", "passfile", "oauth_client_secret")


def without_secrets(dsn: str) -> str:
    """``dsn`` in keyword form, without its passwords; fit for a log."""
    shown = {key: value for key, value in parse_dsn(dsn).items() if key not in SECRETS}
    return make_dsn(**shown) if dsn else ""
