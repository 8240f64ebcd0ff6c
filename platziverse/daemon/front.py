"""Front: what is behind the ports, for each as its configuration narrows it."""

from typing import Any

from platziverse.config import Tls
from platziverse.daemon.listening import CannotListen, is_proxied
from platziverse.door.arrivals import Arrivals
from platziverse.door.sniff import SniffingFactory
from platziverse.door.tls import CertificateError, ServerCertificate
from platziverse.errors import Unusable
from platziverse.net.factory import MQTTFactory
from platziverse.web.site import GuardedSite, OperatorFactory


class Front:
    """A Front has MQTT, HTTP and TLS, which share ports.

    :raises Unusable: there is a certificate, and it cannot be used.
    :ivar certificate: ``None``: no TLS.
    :ivar operators: what is behind the socket of operators.
    """

    def __init__(self, mqtt: MQTTFactory, site: GuardedSite, tls: Tls, arrivals: Arrivals) -> None:
        self._mqtt, self._site, self._arrivals = mqtt, site, arrivals
        self.certificate = server_certificate(tls)
        self.factories: list[SniffingFactory] = []
        self.operators = OperatorFactory(site)

    def behind(self, description: str, protocol: str) -> SniffingFactory:
        """Return the factory for one listener.

        :param protocol: one of ``PROTOCOLS``, but ``operator``: see ``operators``.
        :raises CannotListen: there is no certificate for it.
        """
        plain = protocol in ("any", "mqtt")
        if not plain and self.certificate is None:
            raise CannotListen(f"cannot listen on {description}: TLS needs [tls] certificate and key")
        http = self._site if protocol in ("any", "tls") else None
        proxied = is_proxied(description)
        factory = SniffingFactory(self._mqtt, http, self.certificate, plain, self._arrivals, proxied)
        self.factories.append(factory)
        return factory

    def start(self, clock: Any) -> None:
        """Begin to look after the certificate's files."""
        if self.certificate is not None:
            self.certificate.start(clock)

    def stop(self) -> None:
        """Look no more."""
        if self.certificate is not None:
            self.certificate.stop()

    def close_all(self) -> None:
        """Cut connections that have not sent their first byte, and those between two requests."""
        for factory in self.factories:
            factory.close_all()
        for channel in [*self._site.connections, *self._site.operators]:
            channel.loseConnection()


def server_certificate(tls: Tls) -> ServerCertificate | None:
    """Return the certificate of the settings; ``None``: there is none.

    :raises Unusable: it cannot be used; one line that says why.
    """
    if not tls.certificate and not tls.key:
        if tls.client_ca or tls.require_client:
            raise Unusable("tls: client_ca and require_client need certificate and key")
        return None
    if not tls.certificate or not tls.key:
        raise Unusable("tls: certificate and key are needed together")
    try:
        return ServerCertificate(tls.certificate, tls.key, tls.client_ca or None, tls.require_client)
    except CertificateError as error:
        raise Unusable(f"tls: {error}") from None
