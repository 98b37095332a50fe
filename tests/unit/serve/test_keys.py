"""Who asks: keys of files, the admin's, and none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lianlu.core.errors import ConfigError
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller, KeyConfig, Keys, read_keys


def test_without_keys_everybody_is_anyone() -> None:
    keys = Keys.of()
    assert keys.caller("") is keys.caller("Bearer x") is keys.anyone
    assert (keys.anyone.name, keys.anyone.salt, keys.anyone.is_admin) == ("", "", False)


def test_a_key_is_found_whatever_its_letters() -> None:
    keys = Keys.of("s\u00e9cret", [KeyConfig(name="b", key="other", models=["m"])])
    assert keys.caller("Bearer s\u00e9cret").name == "key"
    assert keys.caller("bearer  other ").models == {"m"}
    for header in ("", "Bearer", "Bearer ", "Bearer secret", "other", "Basic other", "Bearer other x", "Bearer \udce9"):
        with pytest.raises(ApiError) as caught:
            keys.caller(header)
        assert caught.value.status == 401


def test_the_salt_is_the_key_s_own_and_stays() -> None:
    keys, again = (Keys.of("a", [KeyConfig(name="b", key="b")], "c") for _ in range(2))
    salts = [keys.caller(f"Bearer {key}").salt for key in "abc"]
    assert len(set(salts)) == 3
    assert salts == [again.caller(f"Bearer {key}").salt for key in "abc"]
    assert not any(hashlib.sha256(key.encode()).hexdigest().startswith(salt) for key, salt in zip("abc", salts, strict=True))


def test_a_hash_stands_for_its_key() -> None:
    sha = hashlib.sha256(b"secret").hexdigest().upper()
    assert Keys.of(None, [KeyConfig(name="n", key_sha256=sha)]).caller("Bearer secret").name == "n"


def test_the_admin() -> None:
    alone = Keys.of(admin_key="boss")
    assert alone.caller("Bearer boss").is_admin
    assert alone.caller("Bearer else") is alone.anyone
    alone.check_admin(alone.caller("Bearer boss"))
    for keys, hint in ((alone, "send the admin key"), (Keys.of("k"), "--admin-key")):
        with pytest.raises(ApiError) as caught:
            keys.check_admin(Caller("k"))
        assert (caught.value.status, hint in caught.value.hint) == (403, True)


def test_no_key_twice() -> None:
    for entries, admin in (
        ([KeyConfig(name="a", key="x"), KeyConfig(name="b", key="x")], None),
        ([KeyConfig(name="a", key="x"), KeyConfig(name="a", key="y")], None),
        ([KeyConfig(name="a", key="x")], "x"),
    ):
        with pytest.raises(ConfigError):
            Keys.of(None, entries, admin)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[keys]]\nname = "a"\nkey = "SECRET"\nkeyy = 1', "did you mean key"),
        ('[[keys]]\nname = "a"\nkey = "SECRET"\nrequests_per_minute = 0', "requests_per_minute"),
        ('[[keys]]\nname = "a"', "either key or key_sha256"),
        ('[[keys]]\nname = "a"\nkey = "SECRET"\nkey_sha256 = "' + "0" * 64 + '"', "either key or key_sha256"),
        ('[[keys]]\nname = "a"\nkey_sha256 = "SECRET"', "key_sha256"),
        ('[[keys]]\nname = "admin"\nkey = "SECRET"', "taken by the admin"),
        ('[[keys]]\nname = "a b"\nkey = "SECRET"', "name"),
        ('[[keys]]\nname = "a"\nkey = ["SECRET"]', "keys.0.key"),
        ("keys = []", "keys"),
        ("", "keys is required"),
        ("[[keys", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_explained_and_shows_no_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert said in caught.value.message
    assert "SECRET" not in caught.value.message + caught.value.hint
    assert caught.value.__cause__ is None or "SECRET" not in str(caught.value.__cause__)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_keys(tmp_path / "none.toml")
