"""Checks the vectors of SM2 with SM3 without a line of Lianxi's own code, in plain Python.

Usage: python3 check_suites.py FILE

Written from GB/T 32905 (SM3) and GB/T 32918.2 and .5 (SM2). Slow and not safe for private keys: it
checks vectors, nothing else. Exit code 0 and one line `ok: ...` if everything holds; 1 and the first
thing that does not; 2 if it cannot run.
"""

import hashlib
import json
import pathlib
import sys

# --- SM3 ---

START = [
    0x7380166F, 0x4914B2B9, 0x172442D7, 0xDA8A0600, 0xA96F30BC, 0x163138AA, 0xE38DEE4D, 0xB0FB0E4E,
]
WORD = 0xFFFFFFFF


def turn(word, count):
    count %= 32
    return (word << count | word >> (32 - count)) & WORD


def sm3_block(state, block):
    words = [int.from_bytes(block[at : at + 4], "big") for at in range(0, 64, 4)]
    for at in range(16, 68):
        mixed = words[at - 16] ^ words[at - 9] ^ turn(words[at - 3], 15)
        mixed ^= turn(mixed, 15) ^ turn(mixed, 23)
        words.append(mixed ^ turn(words[at - 13], 7) ^ words[at - 6])
    a, b, c, d, e, f, g, h = state
    for at in range(64):
        constant = 0x79CC4519 if at < 16 else 0x7A879D8A
        ss1 = turn((turn(a, 12) + e + turn(constant, at)) & WORD, 7)
        ss2 = ss1 ^ turn(a, 12)
        if at < 16:
            ff, gg = a ^ b ^ c, e ^ f ^ g
        else:
            ff, gg = a & b | a & c | b & c, e & f | ~e & WORD & g
        tt1 = (ff + d + ss2 + (words[at] ^ words[at + 4])) & WORD
        tt2 = (gg + h + ss1 + words[at]) & WORD
        a, b, c, d = tt1, a, turn(b, 9), c
        e, f, g, h = tt2 ^ turn(tt2, 9) ^ turn(tt2, 17), e, turn(f, 19), g
    return [old ^ new for old, new in zip(state, [a, b, c, d, e, f, g, h])]


def sm3(data):
    padded = data + b"\x80" + b"\0" * ((55 - len(data)) % 64) + (len(data) * 8).to_bytes(8, "big")
    state = START
    for at in range(0, len(padded), 64):
        state = sm3_block(state, padded[at : at + 64])
    return b"".join(word.to_bytes(4, "big") for word in state)


# --- the curve: y^2 = x^3 + ax + b over the prime field; None is the neutral point ---

P = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF
A = P - 3
B = 0x28E9FA9E9D9F5E344D5A9E4BCF6509A7F39789F515AB8F92DDBCBD414D940E93
N = 0xFFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123
G = (
    0x32C4AE2C1F1981195F9904466A39C9948FE30BBFF2660BE1715A4589334C74C7,
    0xBC3736A2F4F6779C59BDCEE36B692153D0A9877CC62A474002DF32E52139F0A0,
)


def add(one, other):
    if one is None or other is None:
        return one or other
    if one[0] == other[0]:
        if (one[1] + other[1]) % P == 0:
            return None
        slope = (3 * one[0] * one[0] + A) * pow(2 * one[1], -1, P)
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P)
    x = (slope * slope - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def multiply(number, point):
    result = None
    while number:
        if number & 1:
            result = add(result, point)
        point, number = add(point, point), number >> 1
    return result


def encoded(number):
    return number.to_bytes(32, "big")


def read_point(public_key):
    require(len(public_key) == 65 and public_key[0] == 4, "a public key is an uncompressed point")
    x, y = int.from_bytes(public_key[1:33], "big"), int.from_bytes(public_key[33:], "big")
    on_curve = (y * y - x * x * x - A * x - B) % P == 0
    require(x < P and y < P and on_curve, "a public key lies on the curve")
    return x, y


# --- SM2 signatures ---


def holds(user_id, point, message, signature):
    if len(signature) != 64:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (1 <= r < N and 1 <= s < N) or (r + s) % N == 0:
        return False
    head = (len(user_id) * 8).to_bytes(2, "big") + user_id
    z = sm3(head + b"".join(encoded(number) for number in (A, B, *G, *point)))
    e = int.from_bytes(sm3(z + message), "big")
    sum_ = add(multiply(s, G), multiply((r + s) % N, point))
    return sum_ is not None and (e + sum_[0]) % N == r


# --- the file ---


def require(condition, what):
    """Ends the check unless `condition` holds. Not `assert`: -O would remove it."""
    if not condition:
        raise SystemExit(f"does not hold: {what}")


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    """(field number, bytes) of a message that has bytes alone."""
    at, found = 0, []
    while at < len(data):
        tag, at = varint(data, at)
        length, at = varint(data, at)
        require(tag & 7 == 2 and at + length <= len(data), "message is whole")
        found.append((tag >> 3, data[at : at + length]))
        at += length
    return found


def read_envelope(text):
    found = fields(bytes.fromhex(text))
    whole = {number: value for number, value in found if number != 3}
    signatures = [dict(fields(value)) for number, value in found if number == 3]
    signatures = [(one.get(1, b"").decode(), one.get(2, b"")) for one in signatures]
    return whole.get(1, b"").decode(), whole.get(2, b""), signatures


def pre_authentication_encoding(payload_type, payload):
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def main():
    if len(sys.argv) != 2:
        print("usage: check_suites.py FILE", file=sys.stderr)
        sys.exit(2)
    digest = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    require(sm3(b"abc").hex() == digest, "SM3 of the standard's first example")
    document = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    user_id, keys = document["user_id"].encode(), {}
    for key in document["keys"]:
        public = bytes.fromhex(key["public_key"])
        point = read_point(public)
        private = int.from_bytes(bytes.fromhex(key["private"]), "big")
        require(multiply(private, G) == point, "public key follows from private key")
        identifier = hashlib.sha256(bytes([key["suite"]]) + public).hexdigest()[:40]
        require(key["suite"] == 3 and identifier == key["key_id"], "key id follows from public key")
        keys[identifier] = point

    def verified(payload_type, payload, signatures):
        message = pre_authentication_encoding(payload_type, payload)
        return signatures and all(
            identifier in keys and holds(user_id, keys[identifier], message, signature)
            for identifier, signature in signatures
        )

    standard = document["standard"]
    point, message = keys[standard["key_id"]], standard["message"].encode()
    signature = bytes.fromhex(standard["signature"])
    require(holds(user_id, point, message, signature), "signature of the standard's example")
    for case in document["cases"]:
        expected = (
            case["payload_type"],
            bytes.fromhex(case["payload"]),
            [(one["key_id"], bytes.fromhex(one["signature"])) for one in case["signatures"]],
        )
        envelope = read_envelope(case["envelope"])
        require(envelope == expected, f"{case['name']}: envelope")
        require(verified(*envelope), f"{case['name']}: signature")
    for case in document["refused"]:
        require(not verified(*read_envelope(case["envelope"])), f"{case['name']} is refused")
    print(f"ok: {len(document['cases'])} cases and {len(document['refused'])} refusals")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as fault:
        # Vectors of another shape are vectors that do not hold.
        print(f"does not hold: {type(fault).__name__}: {fault}", file=sys.stderr)
        sys.exit(1)
