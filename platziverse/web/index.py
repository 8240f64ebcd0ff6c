"""``/``: a page with links to what there is."""

from typing import Final

from twisted.web.server import Request

from platziverse.web.answers import Answer

PAGE: Final = b"""<!DOCTYPE html>
<html lang="en">
<title>platziverse</title>
<h1>platziverse</h1>
<ul>
<li><a href="/api/agents">/api/agents</a>: agents that are connected;
<a href="/api/agents?connected=all">all of them</a>
<li><a href="/api/clients">/api/clients</a>: MQTT clients
<li><a href="/api/sessions">/api/sessions</a>: durable Sessions, and what waits for them
<li><a href="/metrics">/metrics</a>: counters, for Prometheus
<li><a href="/readyz">/readyz</a>: whether the database is ready;
<a href="/healthz">/healthz</a>: whether the daemon lives
<li>/mqtt: MQTT over WebSocket
</ul>
</html>
"""


class Index(Answer):
    """An Index answers with the page."""

    def answer(self, request: Request) -> bytes:
        """Return the page."""
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        return PAGE
