"""Settings: who may read over HTTP, and how much at a time, with defaults."""

from attrs import field, frozen
from attrs.validators import ge, in_


@frozen
class WebSettings:
    """HTTP on the shared port. MQTT over WebSocket is not meant here: it has logins of its own."""

    #: Who may read ``/api/`` and ``/metrics``: ``local``, this machine only; ``users``, whoever may connect
    #: and subscribe to ``agent/message``, by HTTP Basic; or ``everyone``. A proxy on this machine reads for
    #: whoever it lets in.
    readers: str = field(default="local", validator=in_(("local", "users", "everyone")))
    #: ``/`` is a page that shows agents, charts, rejected messages and the broker; else a list of links.
    page: bool = True
    #: Names in ``Host`` that are answered, without port. None given: any, but for readers ``local`` those
    #: of this machine, so that no foreign page gets here through a name of its own.
    hosts: tuple[str, ...] = ()
    #: Pages that may read, e.g. ``"https://panel.example"``; all others only when they come from here.
    origins: tuple[str, ...] = ()
    #: Pages that may open a WebSocket for MQTT, beside those that come from here. None given: all, but
    #: where a client without a login would be let in.
    websocket_origins: tuple[str, ...] = ()
    #: Seconds in which a request must be complete, and that a connection may be idle.
    timeout: float = field(default=30.0, validator=ge(1))
    #: HTTP connections at a time; beyond them, and those of one address, only health checks are answered.
    max_connections: int = field(default=1000, validator=ge(1))
    #: The same for one address, or one IPv6 network of 64 bits; 0: as many as there may be in all.
    max_connections_per_address: int = field(default=250, validator=ge(0))
    #: Event streams, and exports, at a time; one more gets 503.
    max_streams: int = field(default=100, validator=ge(1))
    max_exports: int = field(default=4, validator=ge(1))
