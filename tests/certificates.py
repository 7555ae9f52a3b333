"""Certificates of a private authority."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def make_certificates(folder: Path, days: int, name: str) -> tuple[Path, Path]:
    """Make an authority and a server's certificate that is valid for so many days from the day before yesterday on.

    The name is the server's address or host name. Returns the authority's file and the server's, with its key.
    """
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("tests authority", name)]
    began = datetime.now(UTC) - timedelta(days=2)

    def sign(number: int, until: datetime, extension: x509.ExtensionType) -> bytes:
        public = keys[number].public_key()
        builder = x509.CertificateBuilder(issuer_name=names[0], subject_name=names[number], public_key=public)
        builder = builder.serial_number(number + 1).not_valid_before(began).not_valid_after(until)
        signed = builder.add_extension(extension, critical=True).sign(keys[0], hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        known: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        known = x509.DNSName(name)
    authority, certificate = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(sign(0, began + timedelta(days=30), x509.BasicConstraints(True, None)))
    certificate.write_bytes(private + sign(1, began + timedelta(days=days), x509.SubjectAlternativeName([known])))
    return authority, certificate
