"""Verifies packs of Lianxi without a line of its own code.

Usage: python3 verify_pack.py FILE --root ROOT [--revocations FILE]
       python3 verify_pack.py --batch DIRECTORY --root ROOT [--revocations FILE]

Written from `docs/protocol.md` alone. Ed25519 comes from `cryptography`, SHA-256 from `hashlib`, SM2
from `check_suites.py` beside this file, which is plain Python.
Prints one line: `valid`, or the fixed word and the unit of the first link that does not hold; in a
batch one line for each file, its name first. Exit code 0 if everything holds, 1 if not, 2 if it
cannot run.
"""

import argparse
import base64
import binascii
import copy
import hashlib
import pathlib
import re
import sys

import check_suites as sm2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

STATEMENT_TYPE = b"application/vnd.lianxi.statement.v1+protobuf"
TOLERANCE_MS = 3 * 24 * 60 * 60 * 1000
MAX_FILE_BYTES = 1024 * 1024 * 1024
MAX_PART_BYTES = 1024 * 1024
MAX_PAYLOAD_BYTES = 48 * 1024
MAX_SIGNATURES = 16
MAX_CELLS = 20_000
MAX_CELL_BYTES = 48 * 1024
HIGHEST_BUCKET = 1887
ED25519, X25519, SM2 = 1, 2, 3
SUITES = {"ed25519": ED25519, "sm2-sm3": SM2}
SM2_USER_ID = b"1234567812345678"
STATEMENT, DELEGATION, AGREEMENT = 1, 2, 3
OWN, SUBTREE = 1, 2
INCLUDED, STALE, ABSENT, QUARANTINED, ZERO, BY_PARENT = 1, 2, 3, 4, 5, 6
UNIT = re.compile(r"[A-Z0-9](?:-?[A-Z0-9]){0,39}\Z")
LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\Z")
PERIOD = re.compile(
    r"[0-9]{4}(-(W[0-9]{2}|Q[1-4]|[0-9]{2}(-[0-9]{2})?))?\Z|[0-9]{4}-[0-9]{2}/[0-9]{4}-[0-9]{2}\Z"
)
GAP_REASONS = {"no-link", "deadline", "no-report", "refused", "other-version", "moving"}
MISSING_REASONS = {"no-link", "deadline", "refused", "not-held"}

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, PRIME - 2, PRIME) % PRIME
# y of the points of small order: strict verification takes none of them.
SMALL_ORDER = {
    0,
    1,
    PRIME - 1,
    int.from_bytes(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
    ),
    int.from_bytes(
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
    ),
}


class Broken(Exception):
    """The first link that does not hold: its fixed word, and the unit that it says it is of."""

    def __init__(self, reason, unit=""):
        super().__init__(reason)
        self.reason, self.unit = reason, unit


class Later(Broken):
    """As Broken, where something that comes later may hold it."""


class Malformed(Exception):
    """Bytes that are no such message, or a field out of its bounds."""


# --- protobuf ---


def varint(data, at):
    value = shift = 0
    start = at
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if value >= 1 << 64:
        raise Malformed("number")
    shortest = at - start == max(1, (value.bit_length() + 6) // 7)
    return value, at, shortest


def fields(data):
    """Yields (number, wire type, value, in its shortest form)."""
    at = 0
    while at < len(data):
        tag, at, short_tag = varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0 or tag >= 1 << 32:
            raise Malformed("tag")
        if wire == 0:
            value, at, short = varint(data, at)
        else:
            short = True
            if wire == 2:
                length, at, short = varint(data, at)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise Malformed("wire type")
            if at + length > len(data):
                raise Malformed("length")
            value, at = data[at : at + length], at + length
        yield number, wire, value, short and short_tag


# Fields of the messages of the file itself: number, kind, and whether repeated.
ENVELOPE = {1: ("text", False), 2: ("bytes", False), 3: ({1: ("text", False), 2: ("bytes", False)}, True)}
CELL = {1: ("uint32", False), 2: ("bytes", False), 3: ("bytes", False), 4: ("bytes", False)}
EVIDENCE = {1: ("bytes", False), 2: ("uint64", False), 3: ("hash", True), 4: ("text", False)}
PART = {
    1: (
        {
            1: ("text", False),
            2: ("text", False),
            3: ("int64", False),
            4: ("text", False),
            5: ("text", False),
            6: ({1: ("text", False), 2: ("text", False)}, True),
        },
        False,
    ),
    2: (ENVELOPE, False),
    3: ({1: (ENVELOPE, False), 2: (ENVELOPE, True)}, False),
    4: (ENVELOPE, False),
    5: ({1: (ENVELOPE, False), 2: (CELL, True), 3: (EVIDENCE, False)}, False),
    6: (ENVELOPE, False),
}


def check_canonical(data, schema):
    """There is one way to write a message, and this is it."""
    last = 0
    for number, wire, value, short in fields(data):
        if number not in schema or not short or number < last:
            raise Malformed("canonical")
        kind, repeated = schema[number]
        if number == last and not repeated:
            raise Malformed("canonical")
        last = number
        if wire != (0 if kind in ("uint32", "uint64", "int64") else 2):
            raise Malformed("canonical")
        if isinstance(kind, dict):
            check_canonical(value, kind)
        elif kind != "hash" and not value or (kind == "uint32" and value >= 1 << 32):
            raise Malformed("canonical")
        elif kind == "text":
            decode_text(value)


def decode_text(value):
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("text") from error


def signed(value):
    return value - (1 << 64) if value >= 1 << 63 else value


def zigzag(value):
    return (value >> 1) ^ -(value & 1)


def read(data, **names):
    """Reads a message: a field's last value by name, all of them for [number].

    Names that end in `_text` are text, in `_int` signed numbers; others stay as they are.
    """
    found = {name: [] if isinstance(key, list) else None for name, key in names.items()}
    by_number = {key[0] if isinstance(key, list) else key: name for name, key in names.items()}
    for number, wire, value, _ in fields(data):
        name = by_number.get(number)
        if name is None:
            continue
        if name.endswith("_number") or name.endswith("_int"):
            if wire != 0:
                raise Malformed(name)
            value = signed(value) if name.endswith("_int") else value
        elif wire != 2 and (wire, name) != (0, "suites"):
            raise Malformed(name)
        elif name.endswith("_text"):
            value = decode_text(value)
        if isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = value
    for name, value in found.items():
        if value is None:
            if name.endswith("_number") or name.endswith("_int"):
                found[name] = 0
            elif name.endswith("_text"):
                found[name] = ""
            elif name.endswith("_bytes"):
                found[name] = b""
    return found


def require(condition, what):
    if not condition:
        raise Malformed(what)


# --- keys and envelopes ---


def key_id(suite, public_key):
    return hashlib.sha256(bytes([suite]) + public_key).hexdigest()[:40]


def is_safe_key(suite, public_key, known={}):
    """In the suite's one encoding, on its curve, not of small order."""
    if suite != ED25519:
        return suite == SM2 and is_point_of_sm2(public_key)
    if public_key not in known:
        y = int.from_bytes(public_key, "little") & (2**255 - 1)
        sign = public_key[31] >> 7 if len(public_key) == 32 else 0
        safe = len(public_key) == 32 and y < PRIME and y not in SMALL_ORDER
        if safe:
            square = (y * y - 1) * pow(CURVE_D * y * y + 1, PRIME - 2, PRIME) % PRIME
            safe = pow(square, (PRIME - 1) // 2, PRIME) in (0, 1) and not (square == 0 and sign)
        known[public_key] = safe
    return known[public_key]


def is_point_of_sm2(public_key):
    try:
        sm2.read_point(public_key)
    except SystemExit:
        return False
    return True


def holds(suite, public_key, signature, encoded):
    if len(signature) != 64:
        return False
    if suite == SM2:
        return sm2.holds(SM2_USER_ID, sm2.read_point(public_key), encoded, bytes(signature))
    y = int.from_bytes(signature[:32], "little") & (2**255 - 1)
    if y >= PRIME or y in SMALL_ORDER or int.from_bytes(signature[32:], "little") >= ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(bytes(signature), encoded)
    except InvalidSignature:
        return False
    return True


class Envelope:
    def __init__(self, data):
        envelope = read(data, type_bytes=1, payload_bytes=2, signatures=[3])
        self.type = bytes(envelope["type_bytes"])
        self.payload = bytes(envelope["payload_bytes"])
        signatures = [read(one, key_text=1, signature_bytes=2) for one in envelope["signatures"]]
        self.signatures = [(one["key_text"], one["signature_bytes"]) for one in signatures]
        self.sha256 = hashlib.sha256(self.payload).digest()

    def verify(self, find):
        """Every signature holds for a key that `find` gives; the holders come back."""
        if self.type != STATEMENT_TYPE or len(self.payload) > MAX_PAYLOAD_BYTES:
            raise Broken("malformed")
        if not 1 <= len(self.signatures) <= MAX_SIGNATURES:
            raise Broken("malformed")
        encoded = b"DSSEv1 %d %b %d %b" % (len(self.type), self.type, len(self.payload), self.payload)
        seen, holders = set(), []
        for identifier, signature in self.signatures:
            if identifier in seen:
                raise Broken("malformed")
            seen.add(identifier)
            holder = find(identifier)
            if holder is None:
                raise Later("unknown-key")
            if not holds(*holder[0], signature, encoded):
                raise Broken("bad-signature")
            holders.append((identifier, holder))
        return holders


class Statement:
    """A header with its body; only ever believed from an envelope that was verified."""

    def __init__(self, payload):
        outer = read(payload, header=1, body_bytes=2)
        require(outer["header"] is not None, "header")
        header = read(
            outer["header"],
            id_bytes=1,
            source_text=2,
            type_text=3,
            subject_text=4,
            time_int=5,
            schema_text=6,
            purpose_text=9,
            class_number=10,
            destination_text=12,
            trace_text=13,
            behalf_text=14,
        )
        require(header["class_number"] in (1, 2), "classification")
        require(header["time_int"] > 0 and header["type_text"], "time, type")
        identifier = bytes(header["id_bytes"])
        require(len(identifier) == 16 and identifier[6] >> 4 == 7 and identifier[8] >> 6 == 2, "id")
        require(UNIT.match(header["source_text"]), "source")
        for name in ("type_text", "subject_text", "schema_text", "purpose_text", "trace_text"):
            check_text(header[name], 256)
        for name in ("destination_text", "behalf_text"):
            require(not header[name] or UNIT.match(header[name]), name)
        self.source, self.type, self.time = header["source_text"], header["type_text"], header["time_int"]
        self.subject, self.schema = header["subject_text"], header["schema_text"]
        self.body = bytes(outer["body_bytes"])


def check_text(text, limit):
    require(len(text.encode()) <= limit, "length of a text")
    control = any(ord(one) < 32 or 127 <= ord(one) < 160 for one in text)
    require(not control, "control character")


def claimed_unit(envelope):
    """Whom a part is about, as it says itself: to name it, never to believe it."""
    try:
        statement = Statement(envelope.payload)
    except Malformed:
        return ""
    if statement.type == "lianxi.delegation.v1" and UNIT.match(statement.subject):
        return statement.subject
    return statement.source


def claimed_source(envelope):
    try:
        return Statement(envelope.payload).source
    except Malformed:
        return ""


# --- delegations ---


class Delegation:
    def __init__(self, body):
        message = read(
            body,
            domain_text=1,
            unit_text=2,
            level_number=3,
            issuer_text=4,
            begins_int=5,
            ends_int=6,
            keys=[7],
            ca_bytes=8,
            host_text=9,
            desk_text=10,
            line_text=11,
            title_text=12,
            serial_number=13,
            suites=[14],
            since_int=15,
            seen=[16],
            further=[17],
            reform_bytes=18,
            next_root=21,
            former_root=22,
        )
        self.next, self.former = None, None
        self.reform, self.order = bytes(message["reform_bytes"]), None
        require(len(self.reform) <= 4096, "order")
        self.domain, self.unit, self.level = message["domain_text"], message["unit_text"], message["level_number"]
        self.issuer, self.desk, self.serial = message["issuer_text"], message["desk_text"], message["serial_number"]
        self.begins, self.ends = message["begins_int"], message["ends_int"]
        self.since = message["since_int"] or self.begins
        self.seen = [bytes(digest) for digest in message["seen"]]
        further = message["further"]
        require(len(self.seen) <= 64 and all(len(digest) == 32 for digest in self.seen), "seen")
        require(len(further) <= 4 and all(len(digest) == 32 for digest in further), "further CAs")
        require(not (self.desk and further), "CAs of a desk")
        require(0 <= message["since_int"] < self.ends, "keys since")
        require(len(self.domain) <= 200, "trust domain")
        require(all(LABEL.match(label) for label in self.domain.split(".")), "trust domain")
        require(not self.desk or UNIT.match(self.desk), "desk")
        require(UNIT.match(self.unit) and self.level in (1, 2, 3, 4), "unit, level")
        require(not self.issuer or UNIT.match(self.issuer), "issuer")
        require(len(message["keys"]) <= 16, "keys")
        self.keys = []
        for key in message["keys"]:
            key = read(key, suite_number=1, key_bytes=2, use_number=3)
            suite, public, use = key["suite_number"], bytes(key["key_bytes"]), key["use_number"]
            if use in (STATEMENT, DELEGATION):
                require(is_safe_key(suite, public), "key")
            else:
                require(use == AGREEMENT and suite == X25519 and len(public) == 32, "key")
            require(all(public != other for _, (_, other), _ in self.keys), "key twice")
            self.keys.append((key_id(suite, public), (suite, public), use))
        self.accepted = suites_of(message["suites"])
        require(not self.issuer or not self.accepted, "suites are the root's to state")
        require(len(message["ca_bytes"]) == (0 if self.desk else 32), "CA")
        for name in ("host_text", "line_text", "title_text"):
            check_text(message[name], 200)
        require(0 < self.begins < self.ends, "validity")
        require(any(use == STATEMENT for _, _, use in self.keys), "no key for statements")
        self.read_roots(message["next_root"], message["former_root"])

    def read_roots(self, after, before):
        """The root keys that it names: those that come after and before the one that it rests on."""
        if after is not None:
            require(not self.issuer and not self.desk, "next root")
            after = read(after, suite_number=1, key_bytes=2, since_int=3)
            require(0 <= after["since_int"] < self.ends, "compromised since")
            key = after["suite_number"], bytes(after["key_bytes"])
            require(is_safe_key(*key), "next root")
            self.next, self.compromised = key, after["since_int"]
        if before is not None:
            require(not self.desk, "former root")
            before = read(before, suite_number=1, key_bytes=2, last_bytes=3)
            key = before["suite_number"], bytes(before["key_bytes"])
            require(len(before["last_bytes"]) == 32 and is_safe_key(*key), "former root")
            self.former, self.last = key, bytes(before["last_bytes"])

    @property
    def unit_under(self):
        return self.unit, self.issuer

    @property
    def subject(self):
        return self.unit, self.desk

    def covers(self, time):
        return time + TOLERANCE_MS >= self.begins and time - TOLERANCE_MS < self.ends

    def has(self, identifier, use):
        return any(one == identifier and of == use for one, _, of in self.keys)


class Order:
    """What an order says by which a unit came under another parent."""

    def __init__(self, body):
        message = read(
            body,
            domain_text=1,
            unit_text=2,
            from_text=3,
            to_text=4,
            day_text=5,
            effective_int=6,
            digest_bytes=7,
            text_text=8,
            merge_number=9,
            division=[10],
        )
        self.children = self.divided(message["division"])
        self.merge = bool(message["merge_number"])
        self.domain, self.unit = message["domain_text"], message["unit_text"]
        self.old, self.new, self.effective = message["from_text"], message["to_text"], message["effective_int"]
        require(all(UNIT.match(one) for one in (self.unit, self.old, self.new)), "unit, from, to")
        require(len({self.unit, self.old, self.new}) == 3, "unit, from, to")
        require(re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", message["day_text"]), "day")
        require(self.effective > 0 and len(message["digest_bytes"]) == 32, "effective, keys")
        check_text(message["text_text"], 200)
        if self.children is not None:
            require(not self.merge, "division")
            others = {self.unit, self.old, self.new}
            require(others.isdisjoint(self.children), "children")

    @staticmethod
    def divided(parts):
        """Children that a unit gives to its sibling; None: it is not divided."""
        if not parts:
            return None
        message = read(parts[-1], children=[1], items=[2])
        children = [read(child, unit_text=1, digest_bytes=2) for child in message["children"]]
        units = [child["unit_text"] for child in children]
        require(all(UNIT.match(unit) for unit in units), "children")
        require(all(len(child["digest_bytes"]) == 32 for child in children), "children")
        items = [bytes(item) for item in message["items"]]
        require(len(units) <= 24 and len(items) <= 32, "division")
        ids = [len(item) == 16 and item[6] >> 4 == 7 and item[8] >> 6 == 2 for item in items]
        require(all(ids), "items")
        require(len(set(units)) == len(units) and len(set(items)) == len(items), "division")
        require(units or items, "division")
        return units

    def step_of(self, unit):
        """The move of a unit that is ordered: unit, old and new parent; None: there is none."""
        if self.children is None:
            return (self.unit, self.old, self.new) if unit == self.unit else None
        return (unit, self.unit, self.new) if unit in self.children else None


def suites_of(values):
    """Numbers of suites that sign, each once."""
    suites = []
    for value in values:
        if isinstance(value, int):
            suites.append(value)
            continue
        at = 0
        while at < len(value):
            suite, at, _ = varint(value, at)
            suites.append(suite)
    require(set(suites) <= {ED25519, SM2} and len(set(suites)) == len(suites), "suites")
    return suites


class Root:
    """A root key: the unit whose own delegation it signs, and the one that followed it."""

    def __init__(self, public, unit=None, last=None):
        self.public, self.unit, self.last = public, unit, last
        self.next, self.granted = None, False


class Trust:
    """Delegations that hold, from the root key down."""

    def __init__(self, domain, root_key, exported):
        self.domain, self.exported = domain, exported
        self.given = key_id(*root_key)
        self.roots = {self.given: Root(root_key)}
        self.revocations, self.believed = {}, {}
        self.history, self.holders, self.digests, self.grants = {}, {}, set(), set()
        self.seen = {}
        self.outside, self.seen_outside = [], set()

    def beginning(self):
        """The same root keys, and nothing else believed."""
        trust = Trust(self.domain, self.roots[self.given].public, None)
        trust.roots = {identifier: copy.copy(root) for identifier, root in self.roots.items()}
        trust.seen = dict(self.seen)
        return trust

    def newest(self, unit):
        history = self.history.get((unit, ""))
        return history[-1] if history else None

    def line(self, unit):
        known = self.newest(unit)
        while known:
            yield known.unit
            known = self.newest(known.issuer)

    def find(self, identifier):
        holder = self.holders.get(identifier)
        if holder and holder[2] != AGREEMENT:
            return holder
        root = self.roots.get(identifier)
        return (root.public, None, None) if root else None

    def in_force(self, holder, identifier, time):
        """The delegation by which a key was good at a time."""
        _, subject, use = holder
        for known in reversed(self.history[subject]):
            if known.has(identifier, use):
                if known.covers(time):
                    return known
            elif known.since + TOLERANCE_MS <= time:
                break
        raise Broken("expired")

    def add(self, envelope):
        if envelope.sha256 in self.digests:
            raise Broken("twice")
        holders = envelope.verify(self.find)
        statement = Statement(envelope.payload)
        if statement.type != "lianxi.delegation.v1":
            raise Broken("unknown-type")
        grant = Delegation(statement.body)
        if grant.domain != self.domain:
            raise Broken("wrong-domain")
        if self.exported and max(statement.time, grant.begins) > self.exported + TOLERANCE_MS:
            raise Broken("expired")
        if statement.source != (grant.issuer or grant.unit):
            raise Broken("wrong-source")
        if grant.issuer:
            self.check_issued(grant, holders, statement.time)
        else:
            self.check_root(grant, holders, envelope)
        self.check_succession(grant, holders)
        for identifier, public, use in grant.keys:
            holder = self.holders.get(identifier)
            is_root = any(public[1] == root.public[1] for root in self.roots.values())
            if is_root or (holder and holder[1:] != (grant.subject, use)):
                raise Broken("malformed")
        self.check_suites(grant, holders, statement.time)
        history = self.history.setdefault(grant.subject, [])
        if any(known.serial == grant.serial for known in history):
            raise Broken("malformed")
        grant.sha256, grant.signed_by = envelope.sha256, [identifier for identifier, _ in holders]
        self.take_roots(grant)
        history.append(grant)
        history.sort(key=lambda known: known.serial)
        for identifier, public, use in grant.keys:
            self.holders.setdefault(identifier, (public, grant.subject, use))
        self.digests.add(envelope.sha256)
        signed_by = [identifier for identifier, _ in holders] if grant.issuer else []
        self.believed[envelope.sha256] = grant, signed_by, statement.time
        for digest in grant.seen:
            self.seen.setdefault(digest, grant.unit)
        if grant.issuer and not grant.desk:
            self.grants.add((grant.issuer, grant.unit))

    def take_roots(self, grant):
        """What a believed grant says of root keys."""
        if not grant.issuer:
            for identifier in grant.signed_by:
                root = self.roots[identifier]
                root.unit, root.granted = grant.unit, True
                if grant.next:
                    root.last, root.next = grant.sha256, key_id(*grant.next)
            if grant.next:
                self.roots.setdefault(key_id(*grant.next), Root(grant.next))
        if grant.former:
            self.roots.setdefault(key_id(*grant.former), Root(grant.former, grant.unit, grant.last))

    def roots_learned(self):
        return len(self.roots) + sum(root.last in self.digests for root in self.roots.values())

    def check_standing(self, identifier, grant, sha256):
        """A root key that has named its successor counts for what its last grant names alone."""
        root = self.roots[identifier]
        if root.last in (None, sha256) or self.seen.get(sha256) == grant.unit:
            return
        if grant.next:
            raise Broken("wrong-root")
        raise Later("ended-key")

    def check_succession(self, grant, holders):
        """A grant that names the next root key, or a former one."""
        signed_by = [identifier for identifier, holder in holders if holder[1] is None]
        if grant.next:
            if grant.next[0] not in (grant.accepted or [ED25519]):
                raise Broken("suite-not-accepted")
            identifier = key_id(*grant.next)
            root = self.roots.get(identifier)
            if identifier in self.holders or identifier in signed_by or (root and root.last):
                raise Broken("wrong-root")
        if grant.former:
            identifier = key_id(*grant.former)
            if identifier in self.holders or identifier in signed_by:
                raise Broken("wrong-root")
            root = self.roots.get(identifier)
            if root and (root.unit not in (None, grant.unit) or root.last != grant.last):
                raise Broken("wrong-root")

    def check_adopted(self, before, grant):
        """A unit that was a root comes under the root that its own root key named."""
        if not before.next:
            raise Broken("outside-subtree")
        if not grant.former or grant.last != before.sha256:
            raise Broken("wrong-root")
        if any(identifier != key_id(*grant.former) for identifier in before.signed_by):
            raise Broken("wrong-root")
        root = self.roots.get(key_id(*before.next))
        if root is None or root.unit not in list(self.line(grant.issuer)):
            raise Broken("wrong-root")

    def accepted_at(self, unit, suite, time):
        """Some delegation of the root above the unit that was in force then accepts the suite."""
        top = list(self.line_at(unit, time))[-1]
        own = [known for known in self.history.get((top, ""), []) if not known.issuer]
        for known in reversed(own):
            if known.covers(time) and suite in (known.accepted or [ED25519]):
                return True
            if known.begins + TOLERANCE_MS <= time:
                return False
        return False

    def check_suites(self, grant, holders, time):
        signing = [public[0] for _, public, use in grant.keys if use != AGREEMENT]
        if grant.issuer:
            accepted = all(self.accepted_at(grant.issuer, suite, time) for suite in signing)
        else:
            accepted = {holders[0][1][0][0], *signing} <= set(grant.accepted or [ED25519])
        if not accepted:
            raise Broken("suite-not-accepted")

    def check_root(self, grant, holders, envelope):
        if len(holders) != 1 or holders[0][1][1] is not None:
            raise Broken("wrong-source")
        if grant.desk:
            raise Broken("malformed")
        identifier = holders[0][0]
        if self.roots[identifier].unit not in (None, grant.unit):
            raise Broken("outside-subtree")
        grant.sha256, grant.signed_by = envelope.sha256, [identifier]
        self.check_same_place(grant)
        self.check_standing(identifier, grant, envelope.sha256)

    def check_issued(self, grant, holders, time):
        granting = self.newest(grant.issuer)
        if granting is None:
            raise Broken("outside-subtree")
        for identifier, holder in holders:
            if holder[1] != (grant.issuer, ""):
                raise Broken("wrong-source")
            if holder[2] != DELEGATION:
                raise Broken("unknown-key")
            by = self.in_force(holder, identifier, time)
            if not self.accepted_at(grant.issuer, holder[0][0], time):
                raise Broken("suite-not-accepted")
            # What it granted as a root reaches back to that time.
            as_root = [one for one in self.history[(grant.issuer, "")] if by.issuer and not one.issuer]
            begins = min([by.begins, *(one.begins for one in as_root)])
            around = time < by.begins + TOLERANCE_MS
            ends = max([by.ends, *(one.ends for one in as_root if around)])
            if grant.ends > ends or grant.begins + TOLERANCE_MS < begins:
                raise Broken("expired")
        if grant.desk:
            delegates = any(use == DELEGATION for _, _, use in grant.keys)
            if grant.issuer != grant.unit or granting.level != grant.level or delegates:
                raise Broken("malformed")
            return
        if self.newest(grant.unit) and grant.unit in self.line(grant.issuer):
            raise Broken("outside-subtree")
        if granting.level >= grant.level and not self.is_merging(grant, granting):
            raise Broken("outside-subtree")
        self.check_place(grant)

    def is_merging(self, grant, granting):
        """A unit may come under its sibling, to end there."""
        if not grant.reform or granting.level != grant.level:
            return False
        try:
            order, by, time = self.open_order(grant.reform)
        except (Broken, Malformed):
            return False
        named = (order.unit, order.new) == (grant.unit, grant.issuer)
        return order.merge and named and self.is_between_siblings(order, by, time)

    def is_between_siblings(self, order, by, time):
        above = list(self.line_at(order.new, time))[1:]
        return above[:1] == [order.old] and by in above

    def check_place(self, grant):
        """A unit keeps its level, and its parent unless an order stands beside the change."""
        history = self.history.get((grant.unit, ""), [])
        if any(known.level != grant.level for known in history):
            raise Broken("outside-subtree")
        earlier = [known for known in history if known.serial < grant.serial]
        later = [known for known in history if known.serial > grant.serial]
        if later and later[0].issuer != grant.issuer:
            self.check_moved(earlier, grant, later[0])
        if earlier and not earlier[-1].issuer:
            self.check_adopted(earlier[-1], grant)
        elif earlier and earlier[-1].issuer != grant.issuer:
            grant.order = self.check_moved(earlier, earlier[-1], grant)
        elif grant.reform:
            try:
                order = self.open_order(grant.reform)[0]
            except (Broken, Malformed):
                return
            step = order.step_of(grant.unit)
            if step and (step[0], step[2]) == grant.unit_under:
                grant.order = order

    def check_moved(self, earlier, before, grant):
        if not grant.reform:
            raise Broken("outside-subtree")
        order, by, time = self.open_order(grant.reform)
        if order.step_of(grant.unit) != (grant.unit, before.issuer, grant.issuer):
            raise Broken("outside-subtree")
        for parent in (before.issuer, grant.issuer):
            if by == grant.unit or by not in self.line_at(parent, time):
                raise Broken("outside-subtree")
        if grant.begins < order.effective - TOLERANCE_MS:
            raise Broken("outside-subtree")
        divides = order.children is not None
        if (order.merge or divides) and not self.is_between_siblings(order, by, time):
            raise Broken("outside-subtree")
        if any(known.order and known.order.effective >= order.effective for known in earlier):
            raise Broken("outside-subtree")
        return order

    def open_order(self, data):
        envelope = Envelope(data)
        holders = envelope.verify(self.find)
        statement = Statement(envelope.payload)
        if statement.type != "lianxi.reform.v1":
            raise Broken("unknown-type")
        if statement.time > self.exported + TOLERANCE_MS:
            raise Broken("expired")
        order = Order(statement.body)
        if order.domain != self.domain:
            raise Broken("wrong-domain")
        for identifier, holder in holders:
            if holder[1] != (statement.source, ""):
                raise Broken("wrong-source")
            if holder[2] != STATEMENT:
                raise Broken("unknown-key")
            self.in_force(holder, identifier, statement.time)
            if not self.accepted_at(statement.source, holder[0][0], statement.time):
                raise Broken("suite-not-accepted")
        if order.effective < statement.time:
            raise Broken("outside-subtree")
        return order, statement.source, statement.time

    def line_at(self, unit, time):
        """The unit and those above it at a time."""
        while unit:
            yield unit
            history = self.history.get((unit, ""), [])
            begun = [known for known in history if known.begins <= time]
            unit = begun[-1].issuer if begun else history[0].issuer if history else ""

    def check_same_place(self, grant):
        """A root gets no parent by itself: only its last grant can be followed by an issuer's."""
        history = self.history.get((grant.unit, ""), [])
        later = [known for known in history if known.serial >= grant.serial]
        if any(known.issuer and known.serial < grant.serial for known in history):
            raise Broken("outside-subtree")
        if any(known.level != grant.level for known in history):
            raise Broken("outside-subtree")
        if later and later[0].issuer and grant.next:
            self.check_adopted(grant, later[0])

    def check_ended(self, holder, identifier, witnessed, seen):
        """What an ended key signed counts only if a witness, or the issuer, had seen it before."""
        _, subject, use = holder
        revoked = self.revoked_key(subject, identifier)
        replaced = self.replaced(holder, identifier)
        if revoked and (replaced is None or replaced >= revoked.cutoff):
            if witnessed is None or witnessed >= revoked.cutoff:
                raise Broken("revoked" if revoked.serial else "ended-key")
        elif replaced is not None and not seen and (witnessed is None or witnessed >= replaced):
            raise Broken("ended-key")

    def replaced(self, holder, identifier):
        """When the delegation began that leaves the key out."""
        _, subject, use = holder
        history = self.history[subject]
        last = max(at for at, known in enumerate(history) if known.has(identifier, use))
        if last + 1 == len(history) or history[last + 1].since > self.exported:
            return None
        return history[last + 1].since

    # Revocations: all are kept, and each is judged by all others.

    def add_revocation(self, content, dated=True):
        """Keeps a revocation that proves itself; the unit that it is about comes back."""
        message = read(content, envelope=1, chain=[2])
        envelope = Envelope(message["envelope"])
        with at_part(envelope):
            proof = self.beginning()
            for link in map(Envelope, message["chain"]):
                if link.sha256 not in proof.digests:
                    proof.add(link)
            holders = envelope.verify(proof.find)
            statement = Statement(envelope.payload)
            if statement.type != "lianxi.revocation.v1":
                raise Broken("unknown-type")
            revocation = Revocation(statement, envelope.sha256)
            if revocation.domain != self.domain:
                raise Broken("wrong-domain")
            if dated and statement.time > self.exported + TOLERANCE_MS:
                raise Broken("expired")
            for identifier, (_, subject, use) in holders:
                own = proof.roots[identifier].unit if subject is None else None
                if own and statement.source == own == revocation.unit:
                    revocation.by_root = True
                    continue
                if subject != (statement.source, ""):
                    raise Broken("wrong-source")
                if use != DELEGATION:
                    raise Broken("unknown-key")
                proof.in_force((None, subject, use), identifier, statement.time)
                revocation.by_root = False
                revocation.rests_on.append((statement.source, identifier, statement.time))
            for grant, signed_by, time in proof.believed.values():
                revocation.rests_on += [(grant.issuer, identifier, time) for identifier in signed_by]
            ended = [self.roots[one].last for one, _ in holders if one in self.roots]
            if dated and any(ended):
                raise Broken("ended-key")
            known = self.newest(revocation.unit)
            if dated and known and not self.reaches(revocation):
                raise Broken("outside-subtree")
            if dated and not known:
                raise Broken("malformed")
            if dated and envelope.sha256 in self.revocations:
                raise Broken("twice")
            self.revocations.setdefault(envelope.sha256, revocation)

    def reaches(self, revocation):
        if revocation.by_root:
            return any(root.unit == revocation.unit for root in self.roots.values())
        if revocation.unit == revocation.by:
            return bool(revocation.desk)
        return revocation.by in self.line(revocation.unit)

    def counts(self, revocation):
        """By somebody who had the right to, with keys that nobody had revoked by then."""
        if not self.reaches(revocation):
            return False
        for unit, identifier, time in revocation.rests_on:
            earlier = self.first_of_key((unit, ""), identifier)
            if earlier and time >= earlier.cutoff:
                return False
        return True

    def first(self, found):
        return min((one for one in found if self.counts(one)), key=lambda one: one.cutoff, default=None)

    def first_of_key(self, subject, identifier):
        concerns = lambda one: one.unit == subject[0] and one.desk in ("", subject[1])
        named = (one for one in self.revocations.values() if identifier in one.keys)
        return self.first(one for one in named if concerns(one))

    def first_of_grant(self, subject):
        history = self.history.get(subject)
        if not history:
            return None
        ends = lambda one: one.unit == subject[0] and one.desk == subject[1]
        ended = (one for one in self.revocations.values() if one.serial and ends(one))
        own = self.first(one for one in ended if one.serial >= history[-1].serial)
        return own or (self.first_of_grant((subject[0], "")) if subject[1] else None)

    def revoked_key(self, subject, identifier):
        found = self.first_of_key(subject, identifier), self.first_of_grant(subject)
        return min(filter(None, found), key=lambda one: one.cutoff, default=None)

    def check_stands(self, envelope):
        """A grant of the file, by the revocations that came after it."""
        grant, signed_by, time = self.believed[envelope.sha256]
        for identifier, _, _ in grant.keys:
            ended = self.first_of_key(grant.subject, identifier)
            # Grants from before name the key that was revoked alone.
            if ended and grant.serial > ended.serial > 0:
                raise Broken("ended-key")
        for identifier in grant.signed_by if not grant.issuer else ():
            self.check_standing(identifier, grant, envelope.sha256)
        for identifier in signed_by:
            ended = self.first_of_key((grant.issuer, ""), identifier)
            if ended and time >= ended.cutoff:
                raise Broken("ended-key")

    def open(self, envelope, witnessed=None):
        """The statement, and the desk that signed it, if one did."""
        holders = envelope.verify(self.find)
        statement = Statement(envelope.payload)
        if statement.time > self.exported + TOLERANCE_MS:
            raise Broken("expired")
        signer = None
        for identifier, holder in holders:
            _, subject, use = holder
            if subject is None:
                raise Broken("wrong-source")
            if use != STATEMENT:
                raise Broken("unknown-key")
            self.in_force(holder, identifier, statement.time)
            if not self.accepted_at(subject[0], holder[0][0], statement.time):
                raise Broken("suite-not-accepted")
            seen = self.seen.get(envelope.sha256) == statement.source
            self.check_ended(holder, identifier, witnessed, seen)
            if subject[0] == statement.source and signer is None:
                signer = subject
        if signer is None:
            known = self.newest(statement.source)
            raise Broken("wrong-source" if known else "outside-subtree")
        return statement, signer[1]


class Revocation:
    def __init__(self, statement, sha256):
        message = read(
            statement.body,
            domain_text=1,
            unit_text=2,
            desk_text=3,
            keys=[4],
            serial_number=5,
            since_int=6,
            reason_number=7,
            text_text=8,
        )
        self.by, self.time, self.sha256 = statement.source, statement.time, sha256
        self.domain, self.unit, self.desk = message["domain_text"], message["unit_text"], message["desk_text"]
        self.serial, since = message["serial_number"], message["since_int"]
        self.keys = {decode_text(one) for one in message["keys"]}
        require(len(self.domain) <= 200, "trust domain")
        require(all(LABEL.match(label) for label in self.domain.split(".")), "trust domain")
        require(UNIT.match(self.unit) and (not self.desk or UNIT.match(self.desk)), "unit, desk")
        require(1 <= len(message["keys"]) <= 64, "keys")
        require(all(re.fullmatch("[0-9a-f]{40}", one) for one in self.keys), "keys")
        require(since >= 0 and message["reason_number"] in (1, 2, 3, 4), "since, reason")
        check_text(message["text_text"], 200)
        self.cutoff = min(since, self.time) if since else self.time
        self.by_root, self.rests_on = True, []


# --- journals: RFC 6962 proofs, C2SP notes ---


def key_hash(name, kind, key):
    """Hash of a key in a signature line; `kind` 0 for a signature, 1 for a cosignature."""
    suite, public = key
    types = {ED25519: (b"\x01", b"\x04"), SM2: (b"\xfflianxi/sm2-sm3/v1", b"\xfflianxi/sm2-sm3/cosignature/v1")}
    return hashlib.sha256(name.encode() + b"\n" + types[suite][kind] + public).digest()[:4]


def decode_base64(text):
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("base64") from error
    require(base64.b64encode(data).decode() == text, "base64")
    return data


class Note:
    def __init__(self, note):
        require(len(note.encode()) <= 32 * 1024, "size of a note")
        require(all(one >= " " or one == "\n" for one in note), "control character")
        border = note.rfind("\n\n")
        require(border >= 0, "border")
        self.text, signatures = note[: border + 1], note[border + 2 :]
        require(signatures.endswith("\n") and signatures.count("\n") <= 64, "signature lines")
        self.lines = []
        for line in signatures[:-1].split("\n"):
            require(line.startswith("\u2014 "), "signature line")
            name, space, signature = line[2:].partition(" ")
            require(space and name and not any(one.isspace() or one == "+" for one in name), "name")
            signature = decode_base64(signature)
            require(len(signature) > 4, "signature")
            self.lines.append((name, signature[:4], signature[4:]))
        lines = self.text[:-1].split("\n")
        require(len(lines) >= 3 and all(lines[:3]), "checkpoint")
        self.origin, size, root = lines[:3]
        require(re.fullmatch(r"0|[1-9][0-9]*", size, re.ASCII) and int(size) < 1 << 64, "size")
        self.size, self.root = int(size), decode_base64(root)
        require(len(self.root) == 32, "root")

    def signature(self, name, kind, key):
        """The first line by the key, or None."""
        hashed = key_hash(name, kind, key)
        return next((line[2] for line in self.lines if line[:2] == (name, hashed)), None)


def is_included(leaf, index, size, proof, root):
    if index >= size:
        return False
    node, last, found = index, size - 1, hashlib.sha256(b"\x00" + leaf).digest()
    for beside in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            found = hashlib.sha256(b"\x01" + beside + found).digest()
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\x01" + found + beside).digest()
        node, last = node >> 1, last >> 1
    return last == 0 and found == root


def statement_keys(trust, unit):
    keys = {}
    for grant in trust.history.get((unit, ""), []):
        for identifier, public, use in grant.keys:
            if use == STATEMENT:
                keys[identifier] = public
    return sorted(keys.items())


def named(trust, name):
    """The unit that a journal or a witness's line is named after."""
    prefix = f"{trust.domain}/unit/"
    unit = name[len(prefix) :] if name.startswith(prefix) else ""
    return unit if UNIT.match(unit) else None


def check_evidence(trust, data, source, digest):
    """When the first witness had seen the statement, in milliseconds, or None."""
    evidence = read(data, leaf_bytes=1, index_number=2, inclusion=[3], note_text=4)
    note = Note(evidence["note_text"])
    owner = named(trust, note.origin)
    require(owner is not None and owner in trust.line(source), "owner")
    signed = False
    for _, key in statement_keys(trust, owner):
        signature = note.signature(note.origin, 0, key)
        if signature is not None:
            signed = holds(*key, signature, note.text.encode())
    require(signed, "signature of the checkpoint")
    leaf, index = bytes(evidence["leaf_bytes"]), evidence["index_number"]
    require(is_included(leaf, index, note.size, evidence["inclusion"], note.root), "inclusion")
    event = None
    for number, wire, value, _ in fields(leaf):
        if 2 <= number <= 8:
            require(wire == 2, "leaf")
            event = number, value
    require(event and event[0] == (2 if owner == source else 3), "leaf")
    require(read(event[1], sha256_bytes=4)["sha256_bytes"] == digest, "leaf")
    times = []
    for name in sorted({line[0] for line in note.lines} - {note.origin}):
        unit = named(trust, name)
        for identifier, key in statement_keys(trust, unit) if unit else []:
            signature = note.signature(name, 1, key)
            if signature is None:
                continue
            require(len(signature) >= 8, "cosignature")
            time = int.from_bytes(signature[:8], "big")
            text = f"cosignature/v1\ntime {time}\n{note.text}".encode()
            require(holds(*key, signature[8:], text), "cosignature")
            time = min(time * 1000, (1 << 63) - 1)
            grants = trust.history[(unit, "")]
            revoked = trust.revoked_key((unit, ""), identifier)
            good = any(grant.has(identifier, STATEMENT) and grant.covers(time) for grant in grants)
            # The source is no witness of its own statements.
            if good and not revoked and unit != source:
                times.append(min(time + 999, (1 << 63) - 1))
    for name, key in trust.outside:
        signature = note.signature(name, 1, key)
        if signature is None:
            continue
        require(len(signature) >= 8, "cosignature")
        time = int.from_bytes(signature[:8], "big")
        text = f"cosignature/v1\ntime {time}\n{note.text}".encode()
        require(holds(*key, signature[8:], text), "cosignature")
        time = min(time * 1000, (1 << 63) - 1)
        trust.seen_outside.add((name, time, source))
        times.append(min(time + 999, (1 << 63) - 1))
    return min(times, default=None)


def read_witness(text):
    """Name and key of a witness outside the tree: name+hash+key of C2SP signed-note."""
    name, hashed, encoded = text.strip().split("+", 2)
    data = decode_base64(encoded)
    kinds = [(b"\x04", ED25519, 1), (b"\x01", ED25519, 0)]
    kinds += [(b"\xfflianxi/sm2-sm3/cosignature/v1", SM2, 1), (b"\xfflianxi/sm2-sm3/v1", SM2, 0)]
    for begin, suite, kind in kinds:
        key = suite, data[len(begin) :]
        if data.startswith(begin) and is_safe_key(*key):
            if key_hash(name, kind, key).hex() != hashed:
                raise ValueError("the hash is not that of the key of the witness")
            return name, key
    raise ValueError("no key of a witness")


# --- summaries and cells ---


class Summary:
    def __init__(self, body):
        message = read(
            body,
            unit_text=1,
            period_text=2,
            kind_number=3,
            version_number=4,
            supersedes_bytes=5,
            root_bytes=6,
            count_number=7,
            coverage=8,
        )
        self.unit, self.period, self.kind = message["unit_text"], message["period_text"], message["kind_number"]
        self.version, self.root, self.count = message["version_number"], bytes(message["root_bytes"]), message["count_number"]
        require(self.kind in (1, 2) and (self.kind == 1) == (self.version > 0), "kind, version")
        require(self.count <= MAX_CELLS and len(message["supersedes_bytes"]) in (0, 16), "cells, supersedes")
        require(message["coverage"] is not None and UNIT.match(self.unit), "coverage, unit")
        require(PERIOD.match(self.period) and len(self.root) == 32, "period, root")
        self.coverage = Coverage(message["coverage"])


class Coverage:
    COUNTS = ("expected", "included", "stale", "absent", "quarantined", "zero", "by_parent")

    def __init__(self, data):
        message = read(
            data,
            expected_number=1,
            included_number=2,
            stale_number=3,
            absent_number=4,
            quarantined_number=5,
            zero_number=6,
            by_parent_number=7,
            inputs=[8],
            gaps=[9],
        )
        self.counts = {name: message[f"{name}_number"] for name in self.COUNTS}
        self.inputs, self.gaps = [], []
        for data in message["inputs"]:
            one = read(data, unit_text=1, state_number=2, digest_bytes=3, version_number=4)
            digest = bytes(one["digest_bytes"])
            require(1 <= one["state_number"] <= 6 and len(digest) in (0, 32), "input")
            require(UNIT.match(one["unit_text"]), "unit of an input")
            self.inputs.append((one["unit_text"], one["state_number"], digest, one["version_number"]))
        for data in message["gaps"]:
            one = read(data, unit_text=1, state_number=2, units_number=3, reason_text=4, known_int=5)
            require(2 <= one["state_number"] <= 6 and len(one["reason_text"].encode()) <= 64, "gap")
            require(UNIT.match(one["unit_text"]), "unit of a gap")
            gap = one["unit_text"], one["state_number"], one["units_number"], one["reason_text"], one["known_int"]
            self.gaps.append(gap)
        counts = self.counts
        missing = counts["stale"] + counts["absent"] + counts["quarantined"]
        require(counts["included"] + missing == counts["expected"], "expected")
        require(sum(gap[2] for gap in self.gaps) == missing and all(gap[2] for gap in self.gaps), "gaps")
        require(0 < counts["included"] >= max(counts["zero"], counts["by_parent"]), "included")

    def added(self):
        return [(unit, digest) for unit, _, digest, _ in self.inputs if digest]


def tree_hash(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def open_cells(summary, data):
    """The cells by index, None for a withheld one."""
    require(len(data) == summary.count, "count")
    placed = {}
    for one in data:
        cell = read(one, index_number=1, salt_bytes=2, cell_bytes=3, leaf_bytes=4)
        require(cell["index_number"] < summary.count, "index")
        require(cell["index_number"] not in placed, "index twice")
        placed[cell["index_number"]] = cell["salt_bytes"], cell["cell_bytes"], cell["leaf_bytes"]
    leaves, cells = [], []
    for index in range(summary.count):
        salt, cell, leaf = placed[index]
        if len(salt) == 16 and cell and not leaf:
            leaves.append(hashlib.sha256(b"\x00" + salt + cell).digest())
            cells.append(cell)
        else:
            require(len(leaf) == 32 and not salt and not cell, "neither disclosed nor withheld")
            leaves.append(bytes(leaf))
            cells.append(None)
    require(tree_hash(leaves) == summary.root, "root")
    return [None if cell is None else read_cell(cell) for cell in cells]


def read_cell(data):
    require(len(data) <= MAX_CELL_BYTES, "size of a cell")
    cell = read(data, indicator_text=1, version_number=2, group_text=3, scope_number=4, component=5)
    require(cell["scope_number"] in (OWN, SUBTREE), "scope")
    indicator = cell["indicator_text"].encode()
    require(1 <= len(indicator) <= 64 and cell["component"] is not None, "indicator, component")
    place = cell["scope_number"], indicator, cell["version_number"], cell["group_text"].encode()
    return place, read_component(cell["component"])


def read_component(data):
    kind, value = None, None
    for number, wire, found, _ in fields(data):
        if 1 <= number <= 6:
            kind, value = number, found
            require(wire == (0 if number == 1 else 2), "component")
    if kind == 1:
        return "count", value
    if kind == 2:
        one = read(value, sum_bytes=1, terms_number=2)
        require(len(one["sum_bytes"]) == 16, "sum")
        return "sum", int.from_bytes(one["sum_bytes"], "big", signed=True), one["terms_number"]
    if kind == 3:
        one = read(value, numerator_number=1, denominator_number=2)
        return "ratio", one["numerator_number"], one["denominator_number"]
    if kind == 4:
        sides = {1: None, 2: None}
        for number, wire, found, _ in fields(value):
            if number in sides:
                require(wire == 0, "extreme")
                sides[number] = zigzag(found)
        return "extreme", sides[1], sides[2]
    if kind == 6:
        return read_histogram(value)
    require(kind == 5, "component")
    hashes, registers = [], b""
    for number, wire, found, _ in fields(value):
        if number == 1 and wire in (1, 2):
            require(len(found) % 8 == 0, "hashes")
            hashes += [int.from_bytes(found[at : at + 8], "little") for at in range(0, len(found), 8)]
        elif number == 2:
            require(wire == 2, "registers")
            registers = bytes(found)
    if registers:
        require(not hashes and len(registers) == 4096 and 0 < max(registers) <= 53, "registers")
        return "sketch", registers
    require(len(hashes) <= 512 and all(a < b for a, b in zip(hashes, hashes[1:])), "hashes")
    return "exact", tuple(hashes)


def repeated_numbers(wire, found):
    """The numbers of one field: written one by one, or packed."""
    if wire == 0:
        return [found]
    require(wire == 2, "numbers")
    numbers, at = [], 0
    while at < len(found):
        number, at, _ = varint(found, at)
        numbers.append(number)
    return numbers


def read_histogram(data):
    buckets, counts = [], []
    for number, wire, found, _ in fields(data):
        if number == 1:
            # Signed numbers of 32 bits: what is above is cut off.
            buckets += [zigzag(one & 0xFFFFFFFF) for one in repeated_numbers(wire, found)]
        elif number == 2:
            counts += repeated_numbers(wire, found)
    require(len(buckets) == len(counts), "histogram")
    require(all(-HIGHEST_BUCKET <= one <= HIGHEST_BUCKET for one in buckets), "buckets")
    require(all(a < b for a, b in zip(buckets, buckets[1:])), "order of buckets")
    require(all(counts) and sum(counts) < 1 << 64, "counts")
    return "histogram", tuple(zip(buckets, counts))


def sketch_of(component):
    if component[0] == "sketch":
        return bytearray(component[1])
    registers = bytearray(4096)
    for value in component[1]:
        rest = value & (2**52 - 1)
        rank = 1 + (52 - rest.bit_length())
        registers[value >> 52] = max(registers[value >> 52], rank)
    return registers


def add(one, other):
    """The sum of two components, or None if they do not fit or leave their range."""
    kinds = one[0], other[0]
    if set(kinds) <= {"exact", "sketch"}:
        if kinds == ("exact", "exact"):
            union = tuple(sorted(set(one[1]) | set(other[1])))
            if len(union) <= 512:
                return "exact", union
            return "sketch", bytes(sketch_of(("exact", union)))
        return "sketch", bytes(map(max, sketch_of(one), sketch_of(other)))
    if kinds[0] != kinds[1]:
        return None
    if kinds[0] == "histogram":
        both = dict(one[1])
        for bucket, count in other[1]:
            both[bucket] = both.get(bucket, 0) + count
        return ("histogram", tuple(sorted(both.items()))) if sum(both.values()) < 1 << 64 else None
    if kinds[0] == "extreme":
        smallest = [side for side in (one[1], other[1]) if side is not None]
        largest = [side for side in (one[2], other[2]) if side is not None]
        return "extreme", min(smallest, default=None), max(largest, default=None)
    total = (kinds[0],) + tuple(a + b for a, b in zip(one[1:], other[1:]))
    unsigned = total[2:] if kinds[0] == "sum" else total[1:]
    fits = all(value < 1 << 64 for value in unsigned)
    if kinds[0] == "sum":
        fits = fits and -(1 << 127) <= total[1] < 1 << 127
    return total if fits else None


HIDDEN = object()


class Disclosed:
    """Figures as far as they are disclosed, and where withheld ones lie."""

    def __init__(self, cells):
        self.figures, self.hidden = {}, []
        last, run = None, False
        for cell in cells:
            if cell is None:
                run = True
                continue
            place, component = cell
            require(last is None or last < place, "order of cells")
            if run:
                self.hidden.append((last, place))
            last, run = place, False
            self.figures[place] = component
        if run:
            self.hidden.append((last, None))

    def at(self, scope, key):
        place = (scope, *key)
        if place in self.figures:
            return self.figures[place]
        for after, before in self.hidden:
            if (after is None or after < place) and (before is None or place < before):
                return HIDDEN
        return None

    def keys(self, scope):
        return [place[1:] for place in self.figures if place[0] == scope]

    def counts_nothing(self):
        begins_later = all(after is not None and after[0] == SUBTREE for after, _ in self.hidden)
        return not self.keys(OWN) and begins_later


def total_of(unit, children, key):
    """The sum of a total's parts, None for no part, HIDDEN if one is not known."""
    parts = [unit.at(OWN, key)]
    declared = True if unit.counts_nothing() else unit.at(OWN, (key[0], key[1], b""))
    if declared is HIDDEN:
        return HIDDEN
    if declared is not None:
        if any(child is None for child in children):
            return HIDDEN
        parts += [child.at(SUBTREE, key) for child in children]
    if any(part is HIDDEN for part in parts):
        return HIDDEN
    total = None
    for part in parts:
        if part is not None:
            total = part if total is None else add(total, part)
            if total is None:
                raise Broken("wrong-total")
    return total


# --- the file ---


def parts_of(data):
    """The parts of the file: (number, bytes) each, in canonical form, and what the seal has to name."""
    if len(data) > MAX_FILE_BYTES:
        raise Broken("too-large")
    if len(data) < 8 or data[:7] != b"lianxi\x00":
        raise Broken("not-a-pack")
    if data[7] != 1:
        raise Broken("version")
    at, seen, head = 8, [], None
    while True:
        if at + 4 > len(data):
            raise Broken("truncated")
        length = int.from_bytes(data[at : at + 4], "big")
        if not 1 <= length <= MAX_PART_BYTES:
            raise Broken("too-large")
        end = at + 4 + length
        if end > len(data):
            raise Broken("truncated")
        part = data[at + 4 : end]
        try:
            check_canonical(part, PART)
            ((number, _, content, _),) = fields(part)
        except (Malformed, ValueError) as error:
            raise Broken("not-canonical") from error
        kinds = [kind for kind, _ in seen]
        fits = {
            1: not seen,
            2: bool(seen) and set(kinds) <= {1, 2},
            3: 2 in kinds and set(kinds) <= {1, 2, 3},
            4: 2 in kinds and set(kinds) <= {1, 2, 3},
            5: 2 in kinds,
            6: 5 in kinds,
        }
        if not fits[number]:
            raise Broken("part-order")
        try:
            if number == 1:
                head = Head(content)
            elif number == 3:
                proven = read(content, envelope=1, chain=[2])
                require(proven["envelope"] is not None and 1 <= len(proven["chain"]) <= 8, "chain")
            elif number == 5:
                packed = read(content, envelope=1, evidence=3)
                require(packed["envelope"] is not None, "envelope")
                if packed["evidence"] is not None:
                    inclusion = read(packed["evidence"], inclusion=[3])["inclusion"]
                    require(all(len(one) == 32 for one in inclusion), "inclusion")
        except Malformed as error:
            raise Broken("malformed") from error
        if number == 6:
            if end != len(data):
                raise Broken("trailing-bytes")
            return head, seen, content, (hashlib.sha256(data[:at]).digest(), at)
        seen.append((number, content))
        at = end


class Head:
    def __init__(self, data):
        head = read(
            data, domain_text=1, exporter_text=2, exported_int=3, unit_text=4, period_text=5, missing=[6]
        )
        self.domain, self.exporter, self.unit = head["domain_text"], head["exporter_text"], head["unit_text"]
        self.exported, self.period = head["exported_int"], head["period_text"]
        require(self.domain and self.exported > 0, "domain, time")
        require(UNIT.match(self.exporter) and UNIT.match(self.unit), "units")
        self.missing = []
        for one in head["missing"]:
            one = read(one, unit_text=1, reason_text=2)
            require(UNIT.match(one["unit_text"]) and one["reason_text"] in MISSING_REASONS, "missing")
            self.missing.append(one["unit_text"])
        require(all(a < b for a, b in zip(self.missing, self.missing[1:])), "order of missing")


class at_part:
    """Names the unit of what is judged within."""

    def __init__(self, envelope):
        self.envelope = envelope

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is Malformed:
            raise Broken("malformed", claimed_unit(self.envelope)) from error
        if isinstance(error, Broken) and not error.unit:
            error.unit = claimed_unit(self.envelope)
        return False


class Node:
    def __init__(self, envelope, summary, disclosed, schema):
        self.envelope, self.summary, self.disclosed, self.schema = envelope, summary, disclosed, schema


def open_statement(trust, head, content):
    """A statement with what it holds: (envelope, statement, summary, disclosed figures)."""
    packed = read(content, envelope=1, cells=[2], evidence=3)
    envelope = Envelope(packed["envelope"])
    with at_part(envelope):
        witnessed, wrong = None, None
        source = claimed_source(envelope)
        if packed["evidence"] is not None and source:
            try:
                witnessed = check_evidence(trust, packed["evidence"], source, envelope.sha256)
            except Malformed as error:
                wrong = error
        statement, desk = trust.open(envelope, witnessed)
        if wrong:
            raise Broken("wrong-evidence") from wrong
        if statement.type != "lianxi.summary.v1":
            require(not packed["cells"], "cells of no summary")
            return envelope, statement, None, None
        if desk:
            raise Broken("wrong-source")
        summary = Summary(statement.body)
        if summary.unit != statement.source:
            raise Broken("wrong-source")
        try:
            disclosed = Disclosed(open_cells(summary, packed["cells"]))
        except Malformed as error:
            raise Broken("cells-do-not-match") from error
        return envelope, statement, summary, disclosed


def check_single(trust, head, contents):
    if len(contents) > 1:
        raise Broken("part-order", claimed_unit(Envelope(read(contents[1], envelope=1)["envelope"])))
    if head.missing:
        raise Broken("malformed")
    envelope, statement, _, _ = open_statement(trust, head, contents[0])
    if statement.source != head.unit:
        raise Broken("wrong-source", claimed_unit(envelope))
    return envelope, statement.schema


def check_figures(trust, head, contents):
    nodes, expected = {}, {}
    for content in contents:
        envelope, statement, summary, disclosed = open_statement(trust, head, content)
        with at_part(envelope):
            if summary is None:
                raise Broken("unknown-type")
            require(summary.kind == 1 and summary.period == head.period, "kind, period")
            unit = summary.unit
            if unit in nodes:
                raise Broken("twice")
            if not nodes:
                if unit != head.unit:
                    raise Broken("wrong-source")
            elif unit not in expected:
                raise Broken("not-included")
            elif expected[unit] != envelope.sha256:
                raise Broken("other-child")
            for child, digest in summary.coverage.added():
                if (unit, child) not in trust.grants:
                    raise Broken("outside-subtree")
                if child in expected:
                    raise Broken("twice")
                expected[child] = digest
        nodes[unit] = Node(envelope, summary, disclosed, statement.schema)
    for unit in head.missing:
        if unit in nodes or unit not in expected:
            raise Broken("malformed")
    for node in nodes.values():
        for child, _ in node.summary.coverage.added():
            if child not in nodes and child not in head.missing:
                raise Broken("missing-child", claimed_unit(node.envelope))
    for node in nodes.values():
        with at_part(node.envelope):
            explain(node, nodes)
    first = nodes[head.unit]
    return first.envelope, first.schema


def explain(node, nodes):
    """Coverage and totals are what those of the children come to."""
    children = [nodes.get(unit) for unit, _ in node.summary.coverage.added()]
    if all(children):
        recount(node.summary.coverage, {child.summary.unit: child for child in children})
    declared = [key for key in node.disclosed.keys(OWN) if not key[2]]
    for child in children:
        if child and any(child.disclosed.at(SUBTREE, key) is None for key in declared):
            raise Broken("wrong-coverage")
    figures = [child.disclosed if child else None for child in children]
    keys = {place[1:] for place in node.disclosed.figures}
    for disclosed in filter(None, figures):
        keys.update(disclosed.keys(SUBTREE))
    for key in keys:
        expected = total_of(node.disclosed, figures, key)
        found = node.disclosed.at(SUBTREE, key)
        if HIDDEN not in (expected, found) and expected != found:
            raise Broken("wrong-total")


def recount(coverage, children):
    counts = dict.fromkeys(Coverage.COUNTS, 0) | {"expected": 1, "included": 1}
    gaps = []
    named = [unit for unit, _, _, _ in coverage.inputs]
    if named != sorted(set(named)):
        raise Broken("wrong-coverage")
    for unit, state, digest, version in coverage.inputs:
        if digest:
            child = children[unit]
            theirs = child.summary.coverage
            for name in Coverage.COUNTS:
                counts[name] += theirs.counts[name]
            gaps += theirs.gaps
            all_zero = theirs.counts["zero"] > 0 and theirs.counts["zero"] == theirs.counts["included"]
            if (state, version) != (ZERO if all_zero else INCLUDED, child.summary.version):
                raise Broken("wrong-coverage")
            continue
        gap = next((gap for gap in coverage.gaps if gap[0] == unit), None)
        if gap is None or gap[3] not in GAP_REASONS or (state, version) != (gap[1], 0):
            raise Broken("wrong-coverage")
        counts["expected"] += gap[2]
        counts[{STALE: "stale", QUARANTINED: "quarantined"}.get(state, "absent")] += gap[2]
        gaps.append(gap)
    if counts != coverage.counts or sorted(gaps, key=lambda gap: gap[0]) != coverage.gaps:
        raise Broken("wrong-coverage")


def check_catalogue(trust, head, envelope):
    with at_part(envelope):
        statement, _ = trust.open(envelope)
        if statement.type != "lianxi.catalogue.v1":
            raise Broken("unknown-type")
        if statement.source not in trust.line(head.unit):
            raise Broken("outside-subtree")
        body = read(statement.body, name_text=1, version_number=2, document_bytes=3)
        require(body["name_text"] and body["version_number"], "catalogue")
        return f"{body['name_text']}@{body['version_number']}"


def check_seal(trust, head, envelope, sealed, in_file):
    with at_part(envelope):
        statement, desk = trust.open(envelope)
        if statement.type != "lianxi.pack.v1":
            raise Broken("unknown-type")
        if statement.source != head.exporter or desk:
            raise Broken("wrong-source")
        if statement.time != head.exported:
            raise Broken("wrong-seal")
        body = read(statement.body, sha256_bytes=1, size_number=2, held_bytes=3, count_number=4)
        held, count = bytes(body["held_bytes"]), body["count_number"] & 0xFFFFFFFF
        says = bool(held or count)
        require(len(body["sha256_bytes"]) == 32 and (not says or len(held) == 32), "digest")
        if (bytes(body["sha256_bytes"]), body["size_number"]) != sealed:
            raise Broken("wrong-seal")
        # What the exporter held: the revocations of the file, or more.
        own = hashlib.sha256(b"".join(sorted(in_file))).digest()
        if says and (count < len(in_file) or (count == len(in_file) and held != own)):
            raise Broken("wrong-seal")


def believe(trust, envelopes):
    """Takes grants in; what rests on a root key that another one names waits for that one."""
    while envelopes:
        known, later = trust.roots_learned(), []
        for envelope, is_beside in envelopes:
            try:
                with at_part(envelope):
                    if not (is_beside and envelope.sha256 in trust.digests):
                        trust.exported, exported = None if is_beside else trust.exported, trust.exported
                        try:
                            trust.add(envelope)
                        finally:
                            trust.exported = exported
            except Later as broken:
                later.append((envelope, is_beside, broken))
        if later and trust.roots_learned() == known:
            raise later[0][2]
        envelopes = [(envelope, is_beside) for envelope, is_beside, _ in later]


def verify(data, domain, root_key, beside=(), roots=(), outside=()):
    """Returns who outside the tree had seen it if everything holds, raises Broken if not."""
    head, parts, seal, sealed = parts_of(data)
    if head.domain != domain:
        raise Broken("wrong-domain")
    trust = Trust(domain, root_key, head.exported)
    trust.outside = list(outside)
    label = None
    granted = [(Envelope(content), False) for number, content in parts if number == 2]
    believe(trust, granted + [(Envelope(content), True) for content in roots])
    for number, content in parts:
        if number == 3:
            trust.add_revocation(content)
    in_file = set(trust.revocations)
    for content in beside:
        trust.add_revocation(content, dated=False)
    for number, content in parts:
        if number == 2:
            envelope = Envelope(content)
            with at_part(envelope):
                trust.check_stands(envelope)
    for number, content in parts:
        if number == 4:
            label = check_catalogue(trust, head, Envelope(content))
    contents = [content for number, content in parts if number == 5]
    check = check_figures if head.period else check_single
    first, schema = check(trust, head, contents)
    if label not in (None, schema):
        raise Broken("unknown-catalogue", claimed_unit(first))
    check_seal(trust, head, Envelope(seal), sealed, in_file)
    return sorted(trust.seen_outside)


def read_root(text):
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != "lianxi root key 1":
        raise ValueError("no root key")
    pairs = [line.split(": ", 1) for line in lines[1:]]
    values = dict(pairs)
    if sorted(name for name, _ in pairs) != ["fingerprint", "public-key", "suite", "trust-domain"]:
        raise ValueError("lines of the root key")
    public = bytes.fromhex(values["public-key"])
    suite = SUITES.get(values["suite"])
    if suite is None or not is_safe_key(suite, public):
        raise ValueError("the root key itself")
    if key_id(suite, public) != values["fingerprint"]:
        raise ValueError("the fingerprint is not that of the key")
    return values["trust-domain"], (suite, public)


def read_revocations(data):
    """The revocations of a file of their own; each proves itself."""
    if data[:8] != b"lianxi\x01\x01":
        raise ValueError("no file of revocations")
    items, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if not 1 <= length <= MAX_PART_BYTES or at + 4 + length > len(data):
            raise ValueError("a revocation is cut off")
        items.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return items


def read_roots(text):
    """The grants of a file by which root keys name each other."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0] != "lianxi roots 1":
        raise ValueError("no file of root grants")
    data = base64.b64decode("".join(lines[1:-1]), validate=True)
    digest = hashlib.sha256(lines[0].encode() + data).hexdigest()[:12]
    if lines[-1] != f"checksum: {digest}":
        raise ValueError("the file of root grants is damaged")
    return read(data, grants=[1])["grants"]


def verdict(data, root, *more):
    try:
        seen = verify(data, *root, *more)
    except Broken as broken:
        return f"{broken.reason} {broken.unit}".strip()
    return "\n".join(["valid", *(f"seen by {name} at {time}: {unit}" for name, time, unit in seen)])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("file", nargs="?", type=pathlib.Path)
    arguments.add_argument("--root", type=pathlib.Path, required=True)
    arguments.add_argument("--batch", type=pathlib.Path)
    arguments.add_argument("--revocations", type=pathlib.Path)
    arguments.add_argument("--roots", type=pathlib.Path)
    arguments.add_argument("--witness", type=read_witness, action="append", default=[])
    arguments = arguments.parse_args()
    root = read_root(arguments.root.read_text(encoding="utf-8"))
    beside = read_revocations(arguments.revocations.read_bytes()) if arguments.revocations else ()
    roots = read_roots(arguments.roots.read_text(encoding="ascii")) if arguments.roots else ()
    if arguments.batch:
        files = sorted(arguments.batch.iterdir())
        more = beside, roots, arguments.witness
        answers = [(file.name, verdict(file.read_bytes(), root, *more)) for file in files]
        print("\n".join(f"{name} {answer}" for name, answer in answers))
    else:
        more = beside, roots, arguments.witness
        answers = [("", verdict(arguments.file.read_bytes(), root, *more))]
        print(answers[0][1])
    sys.exit(0 if all(answer.split("\n")[0] == "valid" for _, answer in answers) else 1)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, AttributeError) as fault:
        print(f"cannot run: {type(fault).__name__}: {fault}", file=sys.stderr)
        sys.exit(2)
