"""Who may ask, how much, over https, and from which pages: over real sockets."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from lianlu.core.errors import ConfigError
from lianlu.serve.main import running_server

from .conftest import client_of, recite

pytestmark = pytest.mark.e2e

ADMIN = {"Authorization": "Bearer boss"}

KEYS = """
[[keys]]
name = "busy"
key = "k-busy"
requests_per_minute = 3

[[keys]]
name = "small"
key_sha256 = "{sha}"
tokens_per_minute = 30
models = ["reciter"]

[[keys]]
name = "single"
key = "k-single"
max_concurrent = 1
models = ["something-else"]
"""


@pytest.fixture(scope="module")
def keyed(reciter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import hashlib

    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(KEYS.format(sha=hashlib.sha256(b"k-small").hexdigest()))
    with running_server(reciter, name="reciter", api_keys=file, api_key="k-one", admin_key="boss") as url:
        yield url


def test_who_may_ask(keyed: str) -> None:
    for key in ("none", "k-Busy", "k-busy x"):
        response = httpx.get(f"{keyed}/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    for key in ("k-one", "k-busy", "k-small", "boss"):
        with client_of(keyed, key) as client:
            assert client.models.list().data[0].id == "reciter"
    with client_of(keyed, "k-single") as client, pytest.raises(openai.PermissionDeniedError, match="may not use that model"):
        recite(client)
    assert httpx.get(f"{keyed}/health").status_code == 200
    assert httpx.get(f"{keyed}/metrics").status_code == 401


def test_requests_a_minute(keyed: str) -> None:
    with client_of(keyed, "k-busy") as client:
        for left in (2, 1, 0):
            response = client.completions.with_raw_response.create(model="reciter", prompt="xy", max_tokens=1)
            assert response.headers["x-ratelimit-limit-requests"] == "3"
            assert response.headers["x-ratelimit-remaining-requests"] == str(left)
        with pytest.raises(openai.RateLimitError, match="3 requests a minute") as caught:
            recite(client)
    assert 15 <= int(caught.value.response.headers["retry-after"]) <= 20
    assert caught.value.response.headers["x-ratelimit-reset-requests"].endswith("s")


def test_tokens_a_minute(keyed: str) -> None:
    with client_of(keyed, "k-small") as client:
        response = client.completions.with_raw_response.create(model="reciter", prompt="xy", max_tokens=58, temperature=0)
        assert response.headers["x-ratelimit-remaining-tokens"] == "0"
        with pytest.raises(openai.RateLimitError, match="30 tokens a minute") as caught:
            recite(client)
    assert 57 <= int(caught.value.response.headers["retry-after"]) <= 62


def test_a_caller_sees_its_own_requests_only(keyed: str) -> None:
    with client_of(keyed, "k-one") as client:
        name = recite(client).id
    for key, status in (("k-one", 200), ("boss", 200), ("k-busy", 404)):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{keyed}/debug/why/{name}", headers=headers).status_code == status
    assert httpx.get(f"{keyed}/debug/why/{name}").status_code == 401
    assert httpx.get(f"{keyed}/debug/why/{name}", headers=ADMIN).json()["key"] == "key"


def test_prefixes_are_not_shared_between_keys(keyed: str) -> None:
    """What is cached for one key answers no question of another about what was asked before."""
    prompt = "abcdefghijklmnopqrstuvwxyz" * 8
    with client_of(keyed, "k-one") as one, client_of(keyed, "boss") as boss:
        recite(one, prompt=prompt)
        assert recite(one, prompt=prompt).usage.prompt_tokens_details.cached_tokens > 0
        assert recite(boss, prompt=prompt).usage.prompt_tokens_details.cached_tokens == 0


def test_no_key_is_in_the_log(reciter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with running_server(reciter, api_key="k-secret", admin_key="k-boss") as url:
        for key in ("k-secret", "k-boss", "k-wrong"):
            httpx.post(f"{url}/v1/completions?key={key}", json={"prompt": "a"}, headers={"Authorization": f"Bearer {key}"})
    said = capfd.readouterr()
    assert "POST /v1/completions" in said.err
    assert not re.search("k-(secret|boss|wrong)", said.err + said.out)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*make, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_https(reciter: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with running_server(reciter, name="reciter", tls_cert=cert, tls_key=key) as url:
        assert url.startswith("https://127.0.0.1:")
        trusting = httpx.Client(verify=ssl.create_default_context(cafile=str(cert)))
        with client_of(url, http_client=trusting) as client:
            assert recite(client).choices[0].text == "zabcd"
            stream = recite(client, stream=True, max_tokens=30)
            assert len("".join(chunk.choices[0].text for chunk in stream)) == 30
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url.replace('https', 'http')}/health")
        assert trusting.is_closed


def test_a_wrong_certificate_is_known_before_the_model_is_read(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True, capture_output=True)
    for files, said in (
        ((cert, tmp_path / "none"), "cannot read"),
        ((cert, other), "does not belong"),
        ((key, key), "not a cert"),
    ):
        with pytest.raises(ConfigError, match=said), running_server(Path("/nonexistent"), tls_cert=files[0], tls_key=files[1]):
            pass


def test_pages_from_other_origins(reciter: Path) -> None:
    origin = "https://example.org"
    with running_server(reciter, name="reciter", cors_origins=[origin], api_key="k") as url:
        ask = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = httpx.options(f"{url}/v1/completions", headers=ask)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        refused = httpx.post(f"{url}/v1/completions", json={"prompt": "a"}, headers={"Origin": origin})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, origin)
        good = httpx.post(f"{url}/v1/completions", json={"prompt": "a"}, headers={"Origin": origin, "Authorization": "Bearer k"})
        assert "X-Request-Id" in good.headers["access-control-expose-headers"]
        stranger = httpx.get(f"{url}/health", headers={"Origin": "https://elsewhere.org"})
        assert "access-control-allow-origin" not in stranger.headers
