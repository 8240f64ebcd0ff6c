"""Tls: verified connections to the servers of the bus."""

from pathlib import Path
from typing import Any

from attrs import frozen
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL.SSL import Error as OpenSslError
from twisted.internet.ssl import (
    Certificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)

from platziverse.errors import Unusable

_BEGIN = "-----BEGIN CERTIFICATE-----"


@frozen
class TlsFiles:
    """TlsFiles are the paths of PEM files; an empty one is that of no file.

    :param authorities: may have signed the server's certificate; none: those that the system trusts.
    :param certificate: ours, with its ``key``, for a server that demands one.
    """

    authorities: str = ""
    certificate: str = ""
    key: str = ""

    def options(self, host: str) -> Any:
        """Return what ``wrapClientTLS`` needs for a server that has to prove to be ``host``.

        :raises Unusable: a file cannot be used.
        """
        trusted = self._authorities() if self.authorities else platformTrust()
        ours = self._ours() if self.certificate else {}
        return optionsForClientTLS(host, trusted, extraCertificateOptions=ours)

    def _authorities(self) -> Any:
        text = _read("bus.ca_file", self.authorities).decode("ascii", "replace")
        parts = [_BEGIN + part for part in text.split(_BEGIN)[1:]]
        try:
            authorities = [Certificate.loadPEM(part.encode()) for part in parts]
        except (OpenSslError, ValueError):
            authorities = []
        if not authorities:
            raise Unusable(f"bus.ca_file: {self.authorities}: is not PEM with certificates")
        return trustRootFromCertificates(authorities)

    def _ours(self) -> dict[str, Any]:
        texts = _read("bus.certificate", self.certificate), _read("bus.key", self.key)
        try:
            certificate, *chain = load_pem_x509_certificates(texts[0])
            key = load_pem_private_key(texts[1], None)
        except (TypeError, ValueError):
            raise Unusable(
                f"bus.certificate: {self.certificate}: is not PEM with certificates,"
                " or bus.key not with a key without pass phrase"
            ) from None
        if key.public_key() != certificate.public_key():
            raise Unusable(f"bus.key: {self.key}: is not the key of {self.certificate}")
        return {"certificate": certificate, "privateKey": key, "extraCertChain": chain}


def _read(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Unusable(f"{setting}: {path}: cannot be read: {error.strerror}") from None
