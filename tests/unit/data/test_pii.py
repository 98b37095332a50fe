from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lianlu.data.rules.edits import applied, counts
from lianlu.data.rules.pii import find, is_card, is_chinese_id

KEY = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5"


def redact(text: str) -> tuple[str, dict[str, int]]:
    edits = find(text)
    return applied(text, edits), counts(edits)


@pytest.mark.parametrize(
    ("text", "wanted", "number"),
    [
        ("write to jane.doe+x@mail.company.co.uk.", "write to [EMAIL].", {"email": 1}),
        ("<a@b.org>, c_d@e-f.net", "<[EMAIL]>, [EMAIL]", {"email": 2}),
        ("张三的邮箱是zhang@qq.com。", None, {"email": 1}),
        ("请记录foo@bar.org，电话13812345678。", "请记录[EMAIL]，电话[PHONE]。", {"email": 1, "phone": 1}),
        (
            "身份证11010519491231002X号，卡号4111111111111111。",
            "身份证[ID_NUMBER]号，卡号[CARD_NUMBER]。",
            {"chinese_id": 1, "card": 1},
        ),
        ("from 203.0.114.7 and 8.8.8.108:80", "from [IP_ADDRESS] and [IP_ADDRESS]:80", {"ipv4": 2}),
        ("at 2a00:1450:4001:81b::200e now", "at [IP_ADDRESS] now", {"ipv6": 1}),
        ("call 13812345678 or 138-1234-5678, +86 139 1234 5678", "call [PHONE] or [PHONE], [PHONE]", {"phone": 3}),
        ("call +44 20 7946 0958 or (212) 555-0142", "call [PHONE] or [PHONE]", {"phone": 2}),
        ("id 11010519491231002X and 440524188001010014", "id [ID_NUMBER] and [ID_NUMBER]", {"chinese_id": 2}),
        ("card 4111 1111 1111 1111, 378282246310005", "card [CARD_NUMBER], [CARD_NUMBER]", {"card": 2}),
        (f"token {KEY}.", "token [API_KEY].", {"key": 1}),
        ("AKIAIOSFODNN7EXAMPLE", "[API_KEY]", {"key": 1}),
        ('api_key = "a1b2c3d4e5f6g7h8i9j0k1"', 'api_key = "[API_KEY]"', {"key": 1}),
        ("-----BEGIN RSA PRIVATE KEY-----\n" + "MIIB" * 20 + "\n-----END RSA PRIVATE KEY-----", "[API_KEY]", {"key": 1}),
    ],
)
def test_found_and_replaced(text: str, wanted: str | None, number: dict[str, int]) -> None:
    redacted, found = redact(text)
    assert found == number
    assert wanted is None or redacted == wanted


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com, root@localhost, a@sub.example.org",
        "photos.net/x/13812345678/ and 记录@abc.def(x)",
        "10.0.0.1 192.168.1.254 127.0.0.1 255.255.255.255 999.888.777.666",
        "version 3.11.0.1, section 8.2.4.44, v1.2.3.4, 1.2.3.4.500",
        "a[::2], std::vector, 12:30:45, dead::beef, fe80::1, ::1, fec0::",
        "x = 14066241536, 20240101123000, 3.14159265358979",
        "id 110105194912310021 with a wrong check digit",
        "4111 1111 1111 1112 fails Luhn; 1234567812345678 has no issuer",
        "password = 'correct horse battery staple'",
        "isbn 978-3-16-148410-0; 2024-01-02 10:11:12; 1-2-3; 100-200-3000",
        "git@ and @decorator and a @ b.c",
    ],
)
def test_left_alone(text: str) -> None:
    assert redact(text) == (text, {})


@given(st.integers(10**15, 10**16 - 1))
def test_one_of_ten_last_digits_makes_a_card_number_at_most(number: int) -> None:
    body = f"4{str(number)[1:15]}"
    assert sum(is_card(body + str(last)) for last in range(10)) <= 1


@given(st.dates(min_value=__import__("datetime").date(1900, 1, 1)), st.integers(0, 999))
def test_exactly_one_check_character_fits_an_identity_number(born: object, serial: int) -> None:
    if int(str(born)[:4]) <= 2100:
        body = "110105" + str(born).replace("-", "") + f"{serial:03d}"
        assert sum(is_chinese_id(body + check) for check in "0123456789X") == 1


@given(st.text(st.sampled_from("a1@.:+-( )[]\n张x"), max_size=60) | st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once, _ = redact(text)
    assert redact(once)[0] == once
