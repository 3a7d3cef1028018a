"""What leaves the machine: signed pickles, encrypted values, and what is refused before anything is decoded."""

import hashlib
import hmac
import pickle
import struct
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tezkor import _native

TAGGED, PICKLE = 1, 2
SIGNED, ENCRYPTED, LZ4, ZSTD = 0x10, 0x20, 0x40, 0x80
KEY = b"shop:1:basket"
TAG_BYTES, NONCE_BYTES = 16, 12

unpickled = []


def note(text):
    """What a pickle of Telling runs when it is loaded."""
    unpickled.append(text)
    return text


class Telling:
    """A value that only a pickle can hold, and that shows when somebody unpickles it."""

    def __init__(self, text="ran"):
        self.text = text

    def __reduce__(self):
        return note, (self.text,)


@pytest.fixture(autouse=True)
def nothing_unpickled():
    unpickled.clear()


def drawn(text, label):
    """HKDF-SHA256, its first block."""
    extracted = hmac.digest(b"tezkor far values 1", text, "sha256")
    return hmac.digest(extracted, label + b"\1", "sha256")


def key_id(text):
    return drawn(text, b"key id")[:1]


def signed(text, full_key, codec, payload, header=b""):
    """Signs as the documentation of the format says, without our code."""
    bound = struct.pack("<I", len(full_key)) + full_key + bytes([codec])
    bound += struct.pack("<I", len(header)) + header
    tag = hmac.digest(drawn(text, b"sign"), bound + payload, "sha256")[:TAG_BYTES]
    return bytes([codec]) + payload + tag + key_id(text)


def refused(seal, data, full_key=KEY, header=b""):
    """Whether the bytes are refused, without anything having been unpickled."""
    before = len(unpickled)
    try:
        seal.unseal(full_key, data, header)
    except ValueError:
        return len(unpickled) == before
    return False


SEALED = {
    "signed": (_native.Seal(["new", "old"]), Telling()),
    "signed and compressed": (_native.Seal(["new", "old"]), Telling("ran " * 1000)),
    "encrypted pickle": (_native.Seal(["new", "old"], encrypt=True), Telling()),
    "encrypted and compressed": (_native.Seal(["new", "old"], encrypt=True), Telling("ran " * 1000)),
    "encrypted data": (_native.Seal(["new", "old"], encrypt=True), {"name": "Ada", "n": [1, 2.5, None]}),
}
each_sealed = pytest.mark.parametrize("name", SEALED)


@each_sealed
def test_what_is_sealed_opens(name):
    seal, value = SEALED[name]
    data = seal.seal(KEY, value)
    assert seal.unseal(KEY, data) == (value.text if isinstance(value, Telling) else value)


@each_sealed
def test_every_changed_bit_is_refused_before_decoding(name):
    seal, value = SEALED[name]
    data = seal.seal(KEY, value)
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            assert refused(seal, bytes(changed)), f"bit {bit} of byte {at} of {len(data)}"
    assert seal.unseal(KEY, data)


@each_sealed
def test_every_other_byte_in_any_place_is_refused(name):
    seal, value = SEALED[name]
    data = seal.seal(KEY, value)
    for at in range(len(data)):
        for byte in range(0, 256, 5):
            if byte != data[at]:
                assert refused(seal, data[:at] + bytes([byte]) + data[at + 1 :])


@each_sealed
def test_cut_or_lengthened_bytes_are_refused(name):
    seal, value = SEALED[name]
    data = seal.seal(KEY, value)
    for length in range(len(data)):
        assert refused(seal, data[:length])
        assert refused(seal, data[:1] + data[-length:]) or length >= len(data) - 1
    assert refused(seal, data + b"\0")
    assert refused(seal, data[:1] + b"\0" + data[1:])


@each_sealed
@pytest.mark.parametrize(
    "full_key",
    [
        b"shop:1:basket2",
        b"shop:1:baske",
        b"shop:2:basket",
        b"shop2:1:basket",
        b":1:basket",
        b"",
        b"SHOP:1:basket",
    ],
)
def test_a_value_moved_to_another_key_prefix_or_version_is_refused(name, full_key):
    seal, value = SEALED[name]
    assert refused(seal, seal.seal(KEY, value), full_key)
    assert refused(seal, seal.seal(full_key, value), KEY)


@each_sealed
def test_a_value_with_another_codec_byte_is_refused(name):
    seal, value = SEALED[name]
    data = seal.seal(KEY, value)
    for codec in range(256):
        if codec != data[0]:
            assert refused(seal, bytes([codec]) + data[1:])


@each_sealed
def test_a_value_with_another_header_is_refused(name):
    seal, value = SEALED[name]
    data = seal.seal(KEY, value, b"expires 1800000000")
    assert seal.unseal(KEY, data, b"expires 1800000000") == seal.unseal(
        KEY, data, header=b"expires 1800000000"
    )
    for header in (b"", b"expires 1900000000", b"expires 180000000", b"expires 1800000000 "):
        assert refused(seal, data, header=header)


def test_key_and_header_do_not_run_into_each_other():
    seal = _native.Seal(["k"])
    data = seal.seal(b"ab", Telling(), b"c")
    for full_key, header in [(b"a", b"bc"), (b"abc", b""), (b"", b"abc")]:
        assert refused(seal, data, full_key, header)


def test_the_signature_is_what_its_documentation_says():
    for value, pickled in [(Telling(), pickle.dumps(Telling(), 5)), (1j, pickle.dumps(1j, 5))]:
        expected = signed(b"secret", KEY, PICKLE | SIGNED, pickled, b"head")
        assert _native.Seal([b"secret"]).seal(KEY, value, b"head") == expected


def test_encrypted_bytes_of_an_earlier_release_open():
    """Checked against the AES-GCM-SIV of OpenSSL: the codec byte, 'Ada' in MessagePack, tag, nonce, key id."""
    data = bytes.fromhex("21c0f4bb377b4e753406c61b7744cce99d89077e689a09b948a6378e3afd331d17c2")
    assert _native.Seal(["secret"]).unseal(KEY, data, b"head") == "Ada"


def test_the_new_key_writes_and_the_old_ones_are_read():
    old, new, both = (_native.Seal(keys) for keys in (["old"], ["new"], ["new", "older", "old"]))
    for value in (Telling(), Telling("ran " * 1000)):
        assert both.unseal(KEY, old.seal(KEY, value)) == value.text
        assert new.unseal(KEY, both.seal(KEY, value)) == value.text
        assert refused(new, old.seal(KEY, value))
        assert refused(old, both.seal(KEY, value))
    old, new, both = (_native.Seal(keys, encrypt=True) for keys in (["old"], ["new"], ["new", "old"]))
    assert both.unseal(KEY, old.seal(KEY, "Ada")) == new.unseal(KEY, both.seal(KEY, "Ada")) == "Ada"
    assert refused(new, old.seal(KEY, "Ada"))
    assert refused(old, both.seal(KEY, "Ada"))


def test_keys_with_the_same_id_are_all_tried():
    """An id is one byte, so of 257 keys two share one."""
    seen = {}
    for number in range(257):
        text = f"key {number}"
        other = seen.setdefault(key_id(text.encode()), text)
        if other != text:
            break
    both = _native.Seal([text, other])
    encrypting = _native.Seal([text, other], encrypt=True)
    assert both.unseal(KEY, _native.Seal([other]).seal(KEY, Telling())) == "ran"
    assert encrypting.unseal(KEY, _native.Seal([other], encrypt=True).seal(KEY, "Ada")) == "Ada"
    assert refused(_native.Seal([text]), _native.Seal([other]).seal(KEY, Telling()))


def test_keys_may_be_texts_or_bytes():
    assert (
        _native.Seal([b"s\xc3\xa9cret"]).unseal(KEY, _native.Seal(["sécret"]).seal(KEY, Telling())) == "ran"
    )


def test_an_unsigned_pickle_is_always_refused():
    pickled = pickle.dumps(Telling(), 5)
    for seal in (_native.Seal(["k"]), _native.Seal(["k"], encrypt=True), _native.Seal([])):
        for codec in (PICKLE, 3, PICKLE | ZSTD, PICKLE | LZ4, PICKLE | ZSTD | LZ4):
            assert refused(seal, bytes([codec]) + pickled)
        # The flag alone is no signature, and a signature without the flag is none.
        assert refused(seal, bytes([PICKLE | SIGNED]) + pickled)
        assert refused(seal, bytes([PICKLE]) + signed(b"k", KEY, PICKLE | SIGNED, pickled)[1:])
        assert refused(seal, bytes([PICKLE]) + signed(b"k", KEY, PICKLE, pickled)[1:])
    assert refused(_native.Seal(["k"]), _native.encode(Telling()))


def test_data_is_not_signed_and_needs_no_key():
    data = _native.Seal(["k"]).seal(KEY, {"name": "Ada"})
    assert data == _native.encode({"name": "Ada"})
    assert _native.Seal([]).unseal(KEY, data) == {"name": "Ada"}


def test_encryption_hides_the_value_and_differs_each_time():
    seal = _native.Seal(["k"], encrypt=True)
    first, second = seal.seal(KEY, "Ada Lovelace"), seal.seal(KEY, "Ada Lovelace")
    assert b"Lovelace" in _native.Seal(["k"]).seal(KEY, "Ada Lovelace")
    assert b"Lovelace" not in first
    assert first != second
    assert first[0] == TAGGED | ENCRYPTED
    assert len(first) == len(_native.encode("Ada Lovelace")) + TAG_BYTES + NONCE_BYTES + 1


def test_with_encryption_only_what_a_key_vouches_for_is_read():
    plain, encrypting = _native.Seal(["k"]), _native.Seal(["k"], encrypt=True)
    assert refused(encrypting, plain.seal(KEY, "Ada"))
    # What was signed before encryption was switched on, and what was encrypted before it was switched off.
    assert encrypting.unseal(KEY, plain.seal(KEY, Telling())) == "ran"
    assert plain.unseal(KEY, encrypting.seal(KEY, "Ada")) == "Ada"


def test_a_cache_without_pickle_neither_writes_nor_reads_one():
    for keys, encrypt, pickles in [(["k"], False, False), (["k"], True, False), ([], False, True)]:
        strict = _native.Seal(keys, encrypt=encrypt, pickle=pickles)
        with pytest.raises(TypeError, match="only as a pickle"):
            strict.seal(KEY, Telling())
        for other in (_native.Seal(["k"]), _native.Seal(["k"], encrypt=True)):
            assert refused(strict, other.seal(KEY, Telling()))
    assert _native.Seal(["k"], pickle=False).unseal(
        KEY, _native.Seal(["k"], pickle=False).seal(KEY, [1])
    ) == [1]


def test_compression_comes_before_the_seal_and_from_a_size_on():
    seal = _native.Seal(["k"], encrypt=True)
    assert len(seal.seal(KEY, "x" * 20_000)) < 200
    assert seal.seal(KEY, "x" * 1000)[0] == TAGGED | ENCRYPTED
    assert seal.seal(KEY, "x" * 1100)[0] == TAGGED | ENCRYPTED | ZSTD
    never = _native.Seal(["k"], compress_min_bytes=0)
    assert never.seal(KEY, "x" * 20_000)[0] == TAGGED


def test_what_is_sealed_unpacks_only_to_what_it_says():
    seal = _native.Seal(["k"])
    whole = seal.seal(KEY, Telling("ran " * 1000))
    assert whole[0] == PICKLE | SIGNED | ZSTD
    packed = whole[5:-17]
    for size in (0, 1, 4000, (64 << 20) + 1, 0xFFFFFFFF):
        payload = struct.pack("<I", size) + packed
        assert refused(seal, signed(b"k", KEY, PICKLE | SIGNED | ZSTD, payload))
        assert refused(seal, signed(b"k", KEY, PICKLE | SIGNED | LZ4, payload))
    assert refused(seal, signed(b"k", KEY, PICKLE | SIGNED | ZSTD | LZ4, whole[1:-17]))
    assert signed(b"k", KEY, PICKLE | SIGNED | ZSTD, whole[1:-17]) == whole


@given(st.binary(max_size=200), st.sampled_from([["k"], []]), st.booleans())
def test_any_bytes_are_refused_or_data(data, keys, encrypt):
    seal = _native.Seal(keys, encrypt=encrypt and bool(keys))
    try:
        seal.unseal(KEY, data)
    except ValueError:
        return
    assert data[0] & ~(LZ4 | ZSTD) == TAGGED


def test_large_values_are_sealed_without_the_python_lock():
    value = [1j, hashlib.sha512(b"x").digest() * 10_000]
    for seal in (_native.Seal(["k"]), _native.Seal(["k"], encrypt=True)):
        data = seal.seal(KEY, value)
        assert seal.unseal(KEY, data) == value
        assert refused(seal, data, b"other")


def test_keys_that_everybody_knows_are_refused():
    with pytest.raises(ValueError, match="key 1 is empty"):
        _native.Seal(["k", ""])
    with pytest.raises(ValueError, match="there is no key"):
        _native.Seal([], encrypt=True)
    with pytest.raises(TypeError, match="str or bytes"):
        _native.Seal([1])


def test_a_seal_does_not_show_its_keys():
    seal = _native.Seal(["very secret"])
    assert "secret" not in repr(seal)
    with pytest.raises(TypeError):
        pickle.dumps(seal)


def test_what_is_refused_is_told_once_and_without_its_content(project):
    said = project.python("""
        import logging
        from tezkor import _native

        logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
        seal, other = _native.Seal(["mine"]), _native.Seal(["theirs"])
        encrypting = _native.Seal(["mine"], encrypt=True)
        pickled = _native.encode([1j, "hush"])

        def miss(seal, key, data):
            try:
                seal.unseal(key, data)
            except ValueError:
                return
            raise AssertionError("it was read")

        for number in range(3):
            key = b"p:1:k%d" % number
            miss(seal, key, pickled)
            miss(seal, key, other.seal(key, [1j, "hush"]))
            miss(seal, key, seal.seal(b"elsewhere", [1j, "hush"]))
            miss(encrypting, key, seal.seal(key, "hush"))
            miss(_native.Seal([]), key, seal.seal(key, [1j, "hush"]))
    """)
    lines = said.splitlines()
    assert len(lines) == 5
    for line, reason in zip(
        lines,
        [
            "a pickle without a signature",
            "keep the old one in SECRET_KEY_FALLBACKS",
            "changed, damaged, or moved here from another key",
            "it is not encrypted",
            "was given no key",
        ],
        strict=True,
    ):
        assert line.startswith(
            textwrap.dedent('tezkor WARNING the value of "p:1:k0" in the far store is a miss: ')
        )
        assert reason in line
    assert "hush" not in said
