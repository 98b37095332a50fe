"""Certificates that cannot be used; the good ones are tried in tests/e2e."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lianlu.core.errors import ConfigError
from lianlu.serve.tls import check_certificate


def test_files_that_are_missing_or_no_certificates(tmp_path: Path) -> None:
    good, none = tmp_path / "text.pem", tmp_path / "none.pem"
    good.write_text("no certificate")
    for cert, key, said in (
        (none, good, "cannot read the certificate .*none.pem"),
        (good, none, "cannot read the key of the certificate .*none.pem"),
        (tmp_path, good, "cannot read the certificate"),
        (good, good, "are not a certificate and its key"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_certificate(cert, key)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-passout", "pass:word"]
    subprocess.run([*make, "-subj", "/CN=x", "-keyout", key, "-out", cert], check=True, capture_output=True)
    with pytest.raises(ConfigError, match="encrypted"):
        check_certificate(cert, key)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_key_that_may_not_be_read(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch(mode=0)
    with pytest.raises(ConfigError, match="cannot read"):
        check_certificate(key, key)
