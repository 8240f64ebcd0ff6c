"""Peer: the client's address, as logs and lists have it, and the name in its certificate."""

from typing import Any

from cryptography.x509.oid import NameOID
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, ISSLTransport

from platziverse.broker.addresses import is_local
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import ConnectReturnCode


def format_peer(address: IAddress) -> str:
    """Return ``"127.0.0.1:51234"``, ``"[::1]:51234"``, or ``"unix"``; IPv4 within IPv6 becomes IPv4."""
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    if isinstance(address, IPv6Address):
        if address.host.startswith("::ffff:"):
            return f"{address.host[7:]}:{address.port}"
        return f"[{address.host}]:{address.port}"
    return "unix"


def is_near(transport: Any) -> bool:
    """Return whether the client is on this machine, and its bytes have not been passed on by a proxy."""
    if getattr(transport, "forwarded", False):
        return False
    peer = getattr(transport.getPeer(), "host", None)
    # Our end costs a system call, and does not matter when the client's is of this machine alone.
    return is_local(peer, None) or is_local(peer, getattr(transport.getHost(), "host", None))


def certificate_user(transport: Any) -> str | None:
    """Return the user name in the subject of the client's certificate: its one Common Name.

    :return: ``None`` without TLS or without a certificate.
    :raises ConnectRefused: (not authorized) when the certificate has no usable name.
    """
    if not ISSLTransport.providedBy(transport):
        return None
    certificate: Any = transport.getPeerCertificate()
    if certificate is None:
        return None
    names = certificate.to_cryptography().subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if len(names) == 1 else ""
    if not name or not name.isprintable() or set(name) & set("+#"):
        raise ConnectRefused(
            ConnectReturnCode.NOT_AUTHORIZED, f"its certificate has no usable name: {name!r}"
        )
    return name
