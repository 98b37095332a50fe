"""https: the certificate and its key are read before a model is loaded, so that a wrong file is known at once."""

from __future__ import annotations

import ssl
from pathlib import Path

from lianlu.core.errors import ConfigError

MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


def check_certificate(cert: Path, key: Path) -> None:
    """Raises: ConfigError that says which file is missing, unreadable, encrypted, or does not fit the other."""
    for path, what in ((cert, "certificate"), (key, "key of the certificate")):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            hint = "check the path and its permissions"
            raise ConfigError(f"cannot read the {what} {path}: {error.strerror or error}", hint=hint) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except ssl.SSLError as error:
        raise _explained(error, cert, key) from error


def _refuse_password() -> str:
    # without this OpenSSL would ask on the terminal, and a server nobody sits at would wait for ever
    raise ConfigError("the key of the certificate is encrypted", hint="decrypt it: openssl pkey -in KEY -out PLAIN_KEY")


def _explained(error: ssl.SSLError, cert: Path, key: Path) -> ConfigError:
    if error.reason in MISMATCHES:
        return ConfigError(f"the key {key} does not belong to the certificate {cert}", hint="give the key it was made with")
    hint = "both have to be in PEM form (-----BEGIN ...), the certificate first in its file, then its chain"
    return ConfigError(f"{cert} and {key} are not a certificate and its key: {error.reason or error}", hint=hint)
