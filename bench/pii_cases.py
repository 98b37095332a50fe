"""Sentences with personal data that is made up, and sentences that only look like it; lines of real texts of both sorts."""

from __future__ import annotations

import email.utils
import ipaddress
import random
import re
import string
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import corpus

FRAMES = (
    "Please contact us: {}.",
    "It was sent to {} yesterday, and nobody answered.",
    "Reach me at {} or leave a note",
    "({})",
    "value: {}\nnext line",
    "联系方式：{}，欢迎咨询。",
    "请记录{}，谢谢",
    "The entry reads “{}”; see below.",
)
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ADDRESS_LINE = re.compile(r"^(?:Author|Discussions-To|Sponsor|BDFL-Delegate):.*(?:\n[ \t]+.*)*", re.M)
_LOOKALIKE = re.compile(
    r"\b(?:\d+\.\d+\.\d+(?:\.\d+)?|(?:19|20)\d\d-\d\d-\d\d|ISBN[ :\d-]{10,}|[0-9a-f]{32,40}|\d{10,19}|\d{2}:\d{2}:\d{2})\b"
)
_PIECE = re.compile(r"[0-9A-Fa-f:.]+")
Rng = random.Random
Maker = Callable[[Rng], str]


@dataclass(frozen=True)
class Case:
    """A text; `gold` is the string that has to go, or empty if all has to stay."""

    kind: str
    text: str
    gold: str = ""


def _digits(rng: Rng, count: int) -> str:
    return "".join(rng.choices(string.digits, k=count))


def _word(rng: Rng, low: int = 3, high: int = 9) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(low, high)))


def _email(rng: Rng) -> str:
    name = rng.choice(("{0}", "{0}.{1}", "{0}_{1}", "{0}+{1}", "{0}{2}")).format(_word(rng), _word(rng), rng.randrange(99))
    end = rng.choice(("com", "org", "cn", "co.uk", "edu", "io", "com.cn"))
    return f"{name}@{rng.choice(('', 'mail.', 'cs.'))}{_word(rng)}.{end}"


def _ipv4(rng: Rng, is_public: bool) -> str:
    while True:
        address = ipaddress.IPv4Address(rng.getrandbits(32))
        if not is_public:
            return rng.choice(("10.{}.{}.{}", "192.168.{1}.{2}", "127.0.0.{2}", "192.0.2.{2}", "172.16.{1}.{2}")).format(
                *(rng.randrange(256) for _ in range(3))
            )
        if address.is_global and not address.is_multicast and not address.is_reserved:
            return str(address)


def _ipv6(rng: Rng) -> str:
    return str(ipaddress.IPv6Address((0x2001_0470 + rng.randrange(1 << 12) << 96) | rng.getrandbits(96)))


def _id_check(body: str) -> str:
    return "10X98765432"[sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, body, strict=True)) % 11]


def _chinese_id(rng: Rng, is_right: bool = True) -> str:
    born = f"{rng.randint(1940, 2015)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}"
    body = f"{rng.choice(('110101', '310115', '440305', '510104', '330106'))}{born}{_digits(rng, 3)}"
    check = _id_check(body)
    return body + (check if is_right else rng.choice([other for other in "0123456789X" if other != check]))


def _luhn(body: str) -> str:
    doubled = [int(digit) * (2 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(body))]
    return str(-sum(value - 9 * (value > 9) for value in doubled) % 10)


def _card(rng: Rng, is_right: bool = True) -> str:
    body = rng.choice(("4", "51", "55", "62")) + _digits(rng, 15)
    body = body[:15]
    check = _luhn(body)
    number = body + (check if is_right else str((int(check) + rng.randint(1, 9)) % 10))
    mark = rng.choice(("", " ", "-"))
    return mark.join(number[n : n + 4] for n in range(0, 16, 4))


def _chinese_mobile(rng: Rng) -> str:
    number = f"1{rng.choice('3456789')}{_digits(rng, 9)}"
    return rng.choice((number, f"+86 {number}", f"+86{number}", f"{number[:3]}-{number[3:7]}-{number[7:]}"))


def _foreign_phone(rng: Rng) -> str:
    first, second, third = f"{rng.randint(201, 989)}", f"{rng.randint(200, 999)}", _digits(rng, 4)
    frames = ("({}) {}-{}", "{}-{}-{}", "+1 {} {} {}", "+1-{}-{}-{}", "+44 20 7{1} {2}", "+49 30 {1}{2}")
    return rng.choice(frames).format(first, second, third)


def _key(rng: Rng) -> str:
    letters = string.ascii_letters + string.digits

    def drawn(count: int, signs: str = letters) -> str:
        return "".join(rng.choices(signs, k=count))

    return rng.choice(
        (
            f"AKIA{drawn(16, string.ascii_uppercase + string.digits)}",
            f"ghp_{drawn(36)}",
            f"sk-{drawn(48)}",
            f"hf_{drawn(34)}",
            f"AIza{drawn(35)}",
        )
    )


PERSONAL: dict[str, Maker] = {
    "email": _email,
    "ipv4": lambda rng: _ipv4(rng, True),
    "ipv6": _ipv6,
    "chinese_id": _chinese_id,
    "card": _card,
    "chinese_mobile": _chinese_mobile,
    "foreign_phone": _foreign_phone,
    "key": _key,
}
LOOKALIKE: dict[str, Maker] = {
    "version": lambda rng: ".".join(str(rng.randrange(40)) for _ in range(rng.choice((3, 4)))),
    "private address": lambda rng: _ipv4(rng, False),
    "private IPv6, time": lambda rng: rng.choice(
        (
            "fe80::1ff:fe23:4567:890a",
            "::1",
            "2001:db8::2",
            f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}",
        )
    ),
    "ISBN": lambda rng: f"ISBN 978-{rng.randrange(10)}-{_digits(rng, 4)}-{_digits(rng, 4)}-{rng.randrange(10)}",
    "date": lambda rng: rng.choice(("{0}-{1:02}-{2:02}", "{0}/{1}/{2}", "{2}.{1}.{0}", "{0}{1:02}{2:02}{1:02}{2:02}00")).format(
        rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(1, 28)
    ),
    "wrong identity number": lambda rng: _chinese_id(rng, False),
    "wrong card": lambda rng: _card(rng, False),
    "example address": lambda rng: f"{_word(rng)}@{rng.choice(('example.com', 'example.org', 'localhost', 'test.invalid'))}",
    "decorator": lambda rng: f"@{_word(rng)}.{_word(rng)}(x)",
    "hash": lambda rng: f"{rng.getrandbits(160):040x}",
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "number": lambda rng: rng.choice(("{}.{}", "{},{}00", "0x{}{}", "{}e-{}", "{}/{}")).format(_digits(rng, 5), _digits(rng, 2)),
    "order number": lambda rng: f"{rng.choice(('No.', 'SKU-', '#', '订单号'))}{rng.choice('02')}{_digits(rng, 11)}",
    "section": lambda rng: f"section {rng.randrange(1, 9)}.{rng.randrange(20)}.{rng.randrange(20)}.{rng.randrange(9)}",
}


def generated(count: int) -> list[Case]:
    """`count` sentences of each kind, of both sorts."""
    rng, made = Rng(3), list[Case]()
    for table, is_personal in ((PERSONAL, True), (LOOKALIKE, False)):
        for kind, maker in table.items():
            for _ in range(count):
                value = maker(rng)
                made.append(Case(kind, rng.choice(FRAMES).format(value), value if is_personal else ""))
    return made


def real() -> list[Case]:
    """Addresses in the headers of Python proposals, and lines with versions, dates, ISBNs, hashes, long numbers."""
    found = list[Case]()
    for row in corpus.texts("en_peps"):
        for header in _ADDRESS_LINE.findall(row["text"][:3000]):
            for address in _addresses(header):
                found.append(Case("address in a header", header, address))
    lines = {line for name in corpus.CORPORA for row in corpus.texts(name) for line in row["text"].split("\n")}
    return found + [Case("real lookalike", line) for line in sorted(lines) if _is_lookalike(line)]


def _is_lookalike(line: str) -> bool:
    return (
        len(line) < 500
        and "@" not in line
        and _LOOKALIKE.search(line) is not None
        and not any(map(_is_public, _PIECE.findall(line)))
    )


def _is_public(piece: str) -> bool:
    """Whether a piece of a line is a public address, and so no mere lookalike: such lines are left out."""
    try:
        return ipaddress.ip_address(piece.strip(".:")).is_global
    except ValueError:
        return False


def _addresses(header: str) -> Iterator[str]:
    """Addresses by the standard library's parser, if they are whole and of a domain that may exist."""
    for _, address in email.utils.getaddresses([" ".join(header.partition(":")[2].split())]):
        local, mark, domain = address.partition("@")
        if mark and local and "." in domain.strip(".") and address in header and "example" not in domain and " " not in address:
            yield address
