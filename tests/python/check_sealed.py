"""Checks the test vectors of sealed bodies and files without a line of Lianxi's own code.

Usage: python3 check_sealed.py FILE

X25519, HMAC and the ciphers come from `cryptography`; HPKE (RFC 9180, base mode), the layout of
bodies and files, and the little of protobuf that is needed are written here from the RFC and
`docs/protocol.md`. Exit code 0 and one line `ok: ...` if everything holds; 1 and the first thing
that does not; 2 if it cannot run.
"""

import hashlib
import hmac
import json
import pathlib
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from check_vectors import Refused, message, require

MARK = b"lianxi-sealed\x01"
CHUNK = 65_536
X25519_SUITE = 2


# --- HPKE: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, base mode ---

KEM_ID = b"KEM" + (0x0020).to_bytes(2, "big")
HPKE_ID = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x0020, 0x0001, 0x0003))


def extract(salt, material):
    return hmac.digest(salt or bytes(32), material, "sha256")


def expand(secret, info, length):
    output = block = b""
    while len(output) < length:
        block = hmac.digest(secret, block + info + bytes([len(output) // 32 + 1]), "sha256")
        output += block
    return output[:length]


def labeled_extract(suite, salt, label, material):
    return extract(salt, b"HPKE-v1" + suite + label + material)


def labeled_expand(suite, secret, label, info, length):
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return expand(secret, labeled, length)


def hpke_open(private, encapsulated, info, aad, sealed):
    own = private.public_key().public_bytes_raw()
    shared = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    secret = labeled_extract(KEM_ID, b"", b"eae_prk", shared)
    secret = labeled_expand(KEM_ID, secret, b"shared_secret", encapsulated + own, 32)
    identity = labeled_extract(HPKE_ID, b"", b"psk_id_hash", b"")
    purpose = labeled_extract(HPKE_ID, b"", b"info_hash", info)
    context = b"\x00" + identity + purpose
    secret = labeled_extract(HPKE_ID, secret, b"secret", b"")
    key = labeled_expand(HPKE_ID, secret, b"key", context, 32)
    nonce = labeled_expand(HPKE_ID, secret, b"base_nonce", context, 12)
    return ChaCha20Poly1305(key).decrypt(nonce, sealed, aad)


def check_rfc():
    """RFC 9180, appendix A.2.1: the first encryption."""
    private = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"
    encapsulated = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
    sealed = (
        "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db"
        "21993c62ce81883d2dd1b51a28"
    )
    plain = hpke_open(
        X25519PrivateKey.from_private_bytes(bytes.fromhex(private)),
        bytes.fromhex(encapsulated),
        b"Ode on a Grecian Urn",
        b"Count-0",
        bytes.fromhex(sealed),
    )
    require(plain == b"Beauty is truth, truth beauty", "the vector of RFC 9180")


# --- bodies and files ---


def content_key(private, commitment, context, recipients):
    public = private.public_key().public_bytes_raw()
    identifier = hashlib.sha256(bytes([X25519_SUITE]) + public).hexdigest()[:40]
    for recipient in recipients:
        sealed = message(recipient, key_id=1, encapsulated=2, sealed_key=3)
        if sealed["key_id"].decode() != identifier:
            continue
        try:
            info = b"lianxi.sealed-key.v1"
            key = hpke_open(private, sealed["encapsulated"], info, context, sealed["sealed_key"])
        except InvalidTag:
            raise Refused("sealed-key") from None
        if hashlib.sha256(b"lianxi.content-key.v1\x00" + key).digest() != commitment:
            raise Refused("commitment")
        return AESGCM(key)
    raise Refused("not-a-reader")


def decrypt(key, nonce, sealed, aad):
    try:
        return key.decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Refused("body") from None


def open_body(private, payload):
    statement = message(payload, header=1, body=2)
    commitment = message(statement["header"], commitment=15)["commitment"]
    body = message(statement["body"], recipients=[1], nonce=2, ciphertext=3)
    digest = hashlib.sha256(statement["header"]).digest()
    key = content_key(private, commitment, digest, body["recipients"])
    return decrypt(key, body["nonce"], body["ciphertext"], digest)


def open_file(private, sealed):
    require(sealed.startswith(MARK), "the mark of a sealed file")
    at = len(MARK) + 4
    end = at + int.from_bytes(sealed[len(MARK) : at], "big")
    head = message(sealed[at:end], commitment=1, recipients=[2])
    context = hashlib.sha256(MARK + head["commitment"]).digest()
    key = content_key(private, head["commitment"], context, head["recipients"])
    digest = hashlib.sha256(sealed[at:end]).digest()
    plain, number, rest = b"", 0, sealed[end:]
    while True:
        chunk, rest = rest[: CHUNK + 16], rest[CHUNK + 16 :]
        nonce = bytes(7) + number.to_bytes(4, "big") + bytes([not rest])
        plain += decrypt(key, nonce, chunk, digest)
        number += 1
        if not rest:
            return plain


def digest_of_file(private, sealed):
    return hashlib.sha256(open_file(private, sealed)).digest()


def check(case, opened_by, sealed, expected):
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(case["private_key"]))
    try:
        found = opened_by(private, bytes.fromhex(case[sealed])).hex()
    except Refused as refused:
        found = str(refused)
    require(found == case[expected], f"{case['name']}: {found[:60]}, not {case[expected][:60]}")


def main():
    if len(sys.argv) != 2:
        print("usage: check_sealed.py FILE", file=sys.stderr)
        sys.exit(2)
    check_rfc()
    document = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    for case in document["cases"]:
        check(case, open_body, "payload", "body")
    for case in document["refused"]:
        check(case, open_body, "payload", "reason")
    for case in document["files"]:
        check(case, digest_of_file, "sealed", "plain_sha256")
    for case in document["refused_files"]:
        check(case, digest_of_file, "sealed", "reason")
    counts = {name: len(cases) for name, cases in document.items()}
    print(f"ok: {counts['cases']} bodies and {counts['files']} files open, "
          f"{counts['refused']} and {counts['refused_files']} are refused")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, Refused) as fault:
        # Vectors of another shape are vectors that do not hold.
        print(f"does not hold: {type(fault).__name__}: {fault}", file=sys.stderr)
        sys.exit(1)
