"""Personal data and secrets replaced by typed placeholders: e-mail, public IP address, phone, Chinese identity number,
payment card, API key.

What has a checksum is checked by it (GB 11643 for identity numbers, Luhn for cards), addresses are parsed; reserved
example domains, private and documentation networks stay, since they belong to nobody. Limits: names and street addresses
are not found; phone numbers are found as mainland Chinese mobiles, with a country code, or in the North American form.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import date

from lianlu.data.rules.edits import Edit, joined

# Words are ASCII: a number behind a Chinese character stands by itself.
# A pattern begins with a set of characters and looks behind it afterwards: the search then skips to such characters at once.
_EMAIL = re.compile(r"(?a)[\w.+-](?<![\w.+-].)[\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w@]|\.\w)")
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost|local|domain\.com|dom\.ain)$", re.I
)
_IPV4 = re.compile(r"(?a)\d(?<![\w.-].)\d{0,2}\.(?:\d{1,3}\.){2}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?a)[0-9A-Fa-f:](?<![\w:.].)[0-9A-Fa-f]{0,3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])")
_CHINESE_MOBILE = re.compile(
    r"(?a)[+81](?<![\w.+=/-].)(?<!= .)(?:(?<=\+)86[ -]?1|(?<=8)6[ -]?1|(?<=1))[3-9]\d"
    r"(?:\d{8}|-\d{4}-\d{4}| \d{4} \d{4})(?![\w.-]?\d|\w)"
)
_INTERNATIONAL = re.compile(
    r"(?a)\+(?<![\w.+-].)[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}(?!\w|[.-]\d)"
)
_NORTH_AMERICAN = re.compile(
    r"(?a)[(2-9](?<![\w.+-].)(?:(?<=\()[2-9]\d\d\) ?|(?<=[2-9])\d\d[-. ])[2-9]\d\d[-. ]\d{4}(?!\w|[.-]\d)"
)
_CHINESE_ID = re.compile(r"(?a)[1-9](?<!\w.)\d{16}[\dXx](?!\w)")
_CARD = re.compile(r"(?a)[2-6](?<![\w.-].)\d{3}(?:([ -]?)\d{4}\1\d{4}\1\d{1,7}|([ -])\d{6}\2\d{5}|\d{11})(?!\w|[.-]\d)")
_KEY = re.compile(
    r"(?a)(?<![A-Za-z0-9])(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_\w{50,100}|xox[abeprs]-[A-Za-z0-9-]{10,200}"
    r"|sk-(?:[a-z]+-)?[A-Za-z0-9_-]{20,200}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,60}|glpat-[\w-]{20,40}|npm_[A-Za-z0-9]{36}"
    r"|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,1000})(?![A-Za-z0-9])"
)
_KEY_MARKS = (
    "AKIA",
    "ASIA",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "xox",
    "sk-",
    "AIza",
    "hf_",
    "glpat-",
    "npm_",
    "eyJ",
)
_LONG_NUMBER = re.compile(r"(?a)\d(?:[ .()-]{0,3}\d){9}")
"""Phones, cards and identity numbers have ten digits at least, with little between them."""
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]{40,8000}?-----END (?:[A-Z]+ )*PRIVATE KEY-----")
_ASSIGNED_KEY = re.compile(
    r"(?i)\b((?:api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret|password|passwd)[\"']?\s*[:=]\s*[\"'])"
    r"([\w+/=-]{20,200})(?=[\"'])"
)
_LONG_VALUE = re.compile(r"[:=]\s*[\"'][\w+/=-]{20}")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def find(text: str) -> list[Edit]:
    """Where placeholders belong, in order. What one kind has taken, those after it in the table leave alone."""
    found: list[Edit] = []
    known: dict[Callable[[str], bool], bool] = {}
    for kind, placeholder, may_occur, pattern, is_real in _RULES:
        if may_occur not in known:
            known[may_occur] = may_occur(text)
        if known[may_occur]:
            found = joined(found, list(_matches(kind, placeholder, pattern, is_real, text)))
    return found


def _matches(kind: str, placeholder: str, pattern: re.Pattern[str], is_real: Callable[[str], bool], text: str) -> Iterator[Edit]:
    group = 2 if kind == "assigned_key" else 0
    for match in pattern.finditer(text):
        if is_real(match[group]):
            yield Edit(match.start(group), match.end(group), placeholder, kind.removeprefix("assigned_"), f"pii.{kind}")


def is_email(found: str) -> bool:
    """Whether an address may belong to a person: not of an example domain."""
    local, _, domain = found.rpartition("@")
    return not _EXAMPLE_DOMAIN.search(domain) and local.strip(".") != ""


def is_public_ip(found: str) -> bool:
    """Whether an address parses and is reachable from anywhere.

    Four numbers below 100 are far more often a version or a section than one of the 2 % of addresses that look so.
    """
    if "." in found and max(map(len, found.split("."))) < 3:
        return False
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return address.is_global and not (address.is_reserved or address.is_multicast or getattr(address, "is_site_local", False))


def is_phone(found: str) -> bool:
    """Whether the number of digits is that of a phone number (ITU E.164: up to 15)."""
    return 10 <= sum(map(str.isdigit, found)) <= 15


def is_chinese_id(found: str) -> bool:
    """Whether 18 characters are an identity number: a date of birth and the ISO 7064 check character."""
    try:
        born = date(int(found[6:10]), int(found[10:12]), int(found[12:14]))
    except ValueError:
        return False
    check = "10X98765432"[sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, found[:17], strict=True)) % 11]
    return 1850 <= born.year <= 2100 and found[17].upper() == check


def is_card(found: str) -> bool:
    """Whether digits are a payment card number: issuer prefix, length, Luhn's checksum."""
    digits = [int(character) for character in found if character.isdigit()]
    number = "".join(map(str, digits))
    lengths = (
        {15}
        if number.startswith(("34", "37"))
        else set(range(16, 20))
        if number.startswith("62")
        else {13, 16, 19}
        if number[0] == "4"
        else {16}
    )
    doubled = sum(digits[-1::-2]) + sum(2 * digit - 9 * (digit > 4) for digit in digits[-2::-2])
    return len(digits) in lengths and doubled % 10 == 0 and len(set(digits)) > 1


def is_key(found: str) -> bool:
    """Whether a string looks drawn by lot: letters and digits, many different ones."""
    return any(map(str.isdigit, found)) and any(map(str.isalpha, found)) and len(set(found)) >= 10


def _always(found: str) -> bool:
    return bool(found)


def _has(*marks: str) -> Callable[[str], bool]:
    return lambda text: any(mark in text for mark in marks)


def _has_long_number(text: str) -> bool:
    return _LONG_NUMBER.search(text) is not None


def _has_long_value(text: str) -> bool:
    return _LONG_VALUE.search(text) is not None


_RULES: tuple[tuple[str, str, Callable[[str], bool], re.Pattern[str], Callable[[str], bool]], ...] = (
    ("key", "[API_KEY]", _has("PRIVATE KEY"), _PRIVATE_KEY, _always),
    ("key", "[API_KEY]", _has(*_KEY_MARKS), _KEY, is_key),
    ("assigned_key", "[API_KEY]", _has_long_value, _ASSIGNED_KEY, is_key),
    ("email", "[EMAIL]", _has("@"), _EMAIL, is_email),
    ("chinese_id", "[ID_NUMBER]", _has_long_number, _CHINESE_ID, is_chinese_id),
    ("card", "[CARD_NUMBER]", _has_long_number, _CARD, is_card),
    ("phone", "[PHONE]", _has_long_number, _CHINESE_MOBILE, is_phone),
    ("phone", "[PHONE]", _has_long_number, _INTERNATIONAL, is_phone),
    ("phone", "[PHONE]", _has_long_number, _NORTH_AMERICAN, is_phone),
    ("ipv4", "[IP_ADDRESS]", _has("."), _IPV4, is_public_ip),
    ("ipv6", "[IP_ADDRESS]", _has(":"), _IPV6, is_public_ip),
)
"""Kind, placeholder, whether it may occur (a cheap look that spares most texts a slow pattern), pattern, check."""
