"""Chunks to stored payloads and back. The C code behind it releases the GIL."""

import threading

import zstandard
from blake3 import blake3

RAW = 0
ZSTD = 1
# At 64 KiB level 2 is nearly as fast as level 1 and 1.2 % smaller; level 3 costs a fifth more CPU
# for another 0.7 % (docs/benchmarks.md).
LEVEL_DEFAULT = 2
# A chunk larger than this is a sign of damage, and would eat the memory of the reader.
PLAIN_BYTES_MAX = 64 << 20
# Compression has to save a sixteenth to be worth the time of undoing it.
_WORTHWHILE_SHIFT = 4

Bytes = bytes | bytearray | memoryview


class Compressor:
    """Compress chunks at one level; one zstd context per thread. Level 0 stores as it is."""

    def __init__(self, level: int = LEVEL_DEFAULT) -> None:
        self.level = level
        self._local = threading.local()

    def compress(self, chunk: Bytes) -> tuple[int, Bytes]:
        """Return the codec used and the payload (the chunk itself if it does not shrink)."""
        if self.level == 0:
            return RAW, chunk
        try:
            compress = self._local.compress
        except AttributeError:
            compress = zstandard.ZstdCompressor(level=self.level).compress
            self._local.compress = compress
        packed: bytes = compress(chunk)
        if len(packed) < len(chunk) - (len(chunk) >> _WORTHWHILE_SHIFT):
            return ZSTD, packed
        return RAW, chunk


_decompressors = threading.local()


def decompress(codec: int, payload: Bytes, plain_length: int) -> Bytes:
    """Return the chunk behind a payload.

    Raises:
        ValueError: the payload is damaged, or is not of this codec or length.
    """
    if plain_length > PLAIN_BYTES_MAX:
        message = f"chunk of {plain_length} bytes"
        raise ValueError(message)
    if codec == RAW:
        plain = payload
    elif codec == ZSTD:
        plain = _unzstd(payload, plain_length)
    else:
        message = f"codec {codec}"
        raise ValueError(message)
    if len(plain) != plain_length:
        message = f"{len(plain)} bytes instead of {plain_length}"
        raise ValueError(message)
    return plain


def decompress_into(codec: int, payload: Bytes, plain_length: int, target: memoryview) -> None:
    """Put the chunk behind a payload where it belongs.

    Raises:
        ValueError: the payload is damaged, or is not of this codec or length; or the target has
            another length.
    """
    if codec == RAW and len(payload) == plain_length == len(target):
        target[:] = payload
    elif codec == ZSTD and plain_length == len(target):
        _unzstd_into(payload, target)
    else:
        # Everything that may be wrong with it is told there.
        decompress(codec, payload, plain_length)
        message = f"{plain_length} bytes instead of {len(target)}"
        raise ValueError(message)


def _unzstd_into(payload: Bytes, target: memoryview) -> None:
    # A reader that is given room for the whole frame decodes it in one step, straight into it.
    try:
        if zstandard.frame_content_size(payload) != len(target):
            raise ValueError("the zstd frame states another length")
        count = _decompressor().stream_reader(payload).readinto(target)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    if count != len(target):
        raise ValueError("the zstd frame is cut off")


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return the decompressor of this thread."""
    try:
        found: zstandard.ZstdDecompressor = _decompressors.one
    except AttributeError:
        found = _decompressors.one = zstandard.ZstdDecompressor()
    return found


def _unzstd(payload: Bytes, plain_length: int) -> bytes:
    # The frame states its size; a lying one must not make us allocate more than the record says.
    try:
        if zstandard.frame_content_size(payload) != plain_length:
            raise ValueError("the zstd frame states another length")
        plain: bytes = _decompressor().decompress(payload, plain_length)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    return plain


def chunk_id(key: bytes, chunk: Bytes) -> bytes:
    """Return the 32-byte keyed BLAKE3 of a chunk."""
    return blake3(chunk, key=key).digest()
