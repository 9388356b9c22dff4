"""Checks the test vectors of Lianxi without a line of its own code.

Usage: python3 check_vectors.py DIRECTORY

Ed25519 comes from `cryptography`, SHA-256 from `hashlib`; DSSE, the Merkle tree of RFC 6962 and
the little of protobuf that is needed are written here from `docs/protocol.md`. Exit code 0 and one
line `ok: ...` if everything holds; 1 and the first thing that does not; 2 if it cannot run.
"""

import hashlib
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_PAYLOAD_BYTES = 48 * 1024
MAX_SIGNATURES = 16

# Ed25519 points of small order, in both spellings of their sign: strict verification takes none
# of them for a public key or for R. The field's prime and the group's order are of RFC 8032.
SMALL_ORDER = {
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}
PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493


class Refused(Exception):
    """An envelope or cells that must not be accepted; the text is the fixed word."""


def require(condition, what):
    """Ends the check unless `condition` holds. Not `assert`: -O would remove it."""
    if not condition:
        raise SystemExit(f"does not hold: {what}")


# --- protobuf ---


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    """Yields (field number, value) of a serialised message."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        else:
            require(tag & 7 == 2, "wire type is a number or bytes")
            length, at = varint(data, at)
            require(at + length <= len(data), "message is whole")
            value, at = data[at : at + length], at + length
        yield tag >> 3, value


def message(data, **names):
    """Reads a message into a dictionary by names; lists for names given as [number]."""
    found = {name: [] if isinstance(key, list) else None for name, key in names.items()}
    for number, value in fields(data):
        for name, key in names.items():
            if key == number:
                found[name] = value
            elif key == [number]:
                found[name].append(value)
    return found


def read_envelope(data):
    envelope = message(data, payload_type=1, payload=2, signatures=[3])
    signatures = [message(one, key_id=1, signature=2) for one in envelope["signatures"]]
    return (
        (envelope["payload_type"] or b"").decode(),
        envelope["payload"] or b"",
        [((one["key_id"] or b"").decode(), one["signature"] or b"") for one in signatures],
    )


# --- envelopes: DSSE v1 with strict Ed25519 ---


def key_id(suite, public_key):
    return hashlib.sha256(bytes([suite]) + public_key).hexdigest()[:40]


def pre_authentication_encoding(payload_type, payload):
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def holds(public_key, signature, encoded):
    if len(signature) != 64:
        return False
    point = signature[:32]
    canonical = int.from_bytes(point, "little") & (2**255 - 1) < PRIME
    reduced = int.from_bytes(signature[32:], "little") < ORDER
    weak = {point.hex(), public_key.hex()} & SMALL_ORDER
    if weak or not canonical or not reduced:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, encoded)
    except InvalidSignature:
        return False
    return True


def verify(envelope, expected_type, keys):
    """Returns the ids of the keys that signed, or raises Refused."""
    payload_type, payload, signatures = envelope
    if payload_type != expected_type:
        raise Refused("payload-type")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Refused("too-large")
    if not signatures:
        raise Refused("no-signature")
    if len(signatures) > MAX_SIGNATURES:
        raise Refused("too-many-signatures")
    encoded = pre_authentication_encoding(payload_type, payload)
    signed = []
    for identifier, signature in signatures:
        if identifier in signed:
            raise Refused("duplicate-key")
        if identifier not in keys:
            raise Refused("unknown-key")
        if not holds(keys[identifier], signature, encoded):
            raise Refused("bad-signature")
        signed.append(identifier)
    return signed


# --- cells: RFC 6962 ---


def leaf_hash(salt, cell):
    return hashlib.sha256(b"\x00" + salt + cell).digest()


def tree_hash(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def read_salted_cell(data):
    cell = message(data, index=1, salt=2, cell=3, leaf=4)
    return cell["index"] or 0, cell["salt"] or b"", cell["cell"] or b"", cell["leaf"] or b""


def open_cells(root, count, cells):
    """Returns the cells by index, None for a withheld one, or raises Refused."""
    if len(cells) != count:
        raise Refused("count")
    placed = {}
    for index, salt, cell, leaf in cells:
        if index >= count:
            raise Refused("index-out-of-range")
        if index in placed:
            raise Refused("index-twice")
        placed[index] = salt, cell, leaf
    leaves, opened = [], []
    for index in range(count):
        salt, cell, leaf = placed[index]
        if len(salt) == 16 and cell and not leaf:
            leaves.append(leaf_hash(salt, cell))
            opened.append(cell)
        elif len(leaf) == 32 and not salt and not cell:
            leaves.append(leaf)
            opened.append(None)
        else:
            raise Refused("malformed")
    if tree_hash(leaves) != root:
        raise Refused("root")
    return opened


# --- the files ---


def refusal(action):
    try:
        action()
    except Refused as refused:
        return str(refused)
    return "accepted"


def check_reading(case, payload, name):
    """A statement says what the vector says that it says."""
    statement = message(payload, header=1, body=2)
    header = message(statement["header"], id=1, source=2, type=3, time_unix_ms=5)
    summary = message(statement["body"], root=6, count=7)
    found = {
        "id": header["id"].hex(),
        "source": header["source"].decode(),
        "type": header["type"].decode(),
        "time_unix_ms": header["time_unix_ms"],
        "cells_root": summary["root"].hex(),
        "cells_count": summary["count"],
    }
    require(found == case["reads_as"], f"{name}: reads as {found}")


def check_envelopes(document):
    private, keys = {}, {}
    for key in document["keys"]:
        secret = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["seed"]))
        public = secret.public_key().public_bytes_raw()
        require(public.hex() == key["public_key"], "public key follows from seed")
        identifier = key_id(key["suite"], public)
        require(identifier == key["key_id"], "key id follows from public key")
        private[identifier], keys[identifier] = secret, public
    for case in document["cases"]:
        name, payload = case["name"], bytes.fromhex(case["payload"])
        encoded = pre_authentication_encoding(case["payload_type"], payload)
        require(encoded.hex() == case["pae"], f"{name}: encoding")
        digest = hashlib.sha256(payload).hexdigest()
        require(digest == case["payload_sha256"], f"{name}: digest of the payload")
        signatures = [(one["key_id"], bytes.fromhex(one["signature"])) for one in case["signatures"]]
        for identifier, signature in signatures:
            # Ed25519 is deterministic: signing anew gives the same bytes.
            require(private[identifier].sign(encoded) == signature, f"{name}: signature")
        envelope = read_envelope(bytes.fromhex(case["envelope"]))
        require(envelope == (case["payload_type"], payload, signatures), f"{name}: envelope")
        signed = verify(envelope, case["payload_type"], keys)
        require(signed == [identifier for identifier, _ in signatures], f"{name}: signers")
        if "reads_as" in case:
            check_reading(case, payload, name)
    for case in document["refused"]:
        envelope = read_envelope(bytes.fromhex(case["envelope"]))
        reason = refusal(lambda: verify(envelope, case["payload_type"], keys))
        require(reason == case["reason"], f"{case['name']}: {reason}, not {case['reason']}")


def check_cells(document):
    for case in document["cases"]:
        name, root = case["name"], bytes.fromhex(case["root"])
        sent = [read_salted_cell(bytes.fromhex(cell["salted_cell"])) for cell in case["cells"]]
        opened = open_cells(root, case["count"], sent)
        for position, (cell, travels, figure) in enumerate(zip(case["cells"], sent, opened)):
            place, leaf = f"{name}: cell {position}", bytes.fromhex(cell["leaf_sha256"])
            require(cell["index"] == position == travels[0], f"{place}: index")
            if cell["cell"] is None:
                expected = position, b"", b"", leaf
                require(cell["salt"] is None and figure is None, f"{place}: withheld")
            else:
                salt, disclosed = bytes.fromhex(cell["salt"]), bytes.fromhex(cell["cell"])
                expected = position, salt, disclosed, b""
                require(leaf_hash(salt, disclosed) == leaf, f"{place}: leaf hash")
                require(figure == disclosed, f"{place}: figure")
            require(travels == expected, f"{place}: as it travels")
    for case in document["refused"]:
        root = bytes.fromhex(case["root"])
        sent = [read_salted_cell(bytes.fromhex(cell)) for cell in case["salted_cells"]]
        reason = refusal(lambda: open_cells(root, case["count"], sent))
        require(reason == case["reason"], f"{case['name']}: {reason}, not {case['reason']}")


def main():
    if len(sys.argv) != 2:
        print("usage: check_vectors.py DIRECTORY", file=sys.stderr)
        sys.exit(2)
    directory = pathlib.Path(sys.argv[1])
    counts = []
    for file, check in [("envelopes.json", check_envelopes), ("cells.json", check_cells)]:
        document = json.loads((directory / file).read_text(encoding="utf-8"))
        check(document)
        counts.append(f"{len(document['cases'])} cases and {len(document['refused'])} refusals")
    print(f"ok: {counts[0]} of envelopes, {counts[1]} of cells")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, Refused) as fault:
        # Vectors of another shape are vectors that do not hold.
        print(f"does not hold: {type(fault).__name__}: {fault}", file=sys.stderr)
        sys.exit(1)
