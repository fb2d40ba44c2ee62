"""Compares ways to compress the blocks of an image: `python -m benchmarks.codec IMAGE`.

One thread, blocks of one size, each compressed on its own, as the repository does it. The columns
are CPU seconds turned into MB/s (10^6), and the bytes that would be stored, relative to level 1. A
block that does not shrink by a sixteenth counts as stored raw, as in `ruchu.chunks.codec`.
"""

import argparse
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import zstandard

from benchmarks import report

FAST, DFAST, GREEDY = 1, 2, 3
WINDOW = 18  # zstd lowers it to what a block needs
_RAW_SHIFT = 4
_DICTIONARY_KIB = (64, 110)
# Training sees blocks that are not compressed later; a hundred times the dictionary is enough.
_TRAINING_BYTES = 12_000_000
# window, chain, hash, search logs, minimum match, target length, strategy. For the strategy fast a
# target length above 0 leaves literals as they are; level 1 has 0 here, negative levels have more.
CUSTOM = {
    "fast h13 l5": (WINDOW, 12, 13, 1, 5, 0, FAST),
    "fast h14 l4": (WINDOW, 12, 14, 1, 4, 0, FAST),
    "fast h14 l5": (WINDOW, 12, 14, 1, 5, 0, FAST),
    "fast h14 l6": (WINDOW, 12, 14, 1, 6, 0, FAST),
    "fast h14 l5 raw literals": (WINDOW, 12, 14, 1, 5, 1, FAST),
    "fast h14 l6 raw literals": (WINDOW, 12, 14, 1, 6, 1, FAST),
    "fast h15 l4": (WINDOW, 12, 15, 1, 4, 0, FAST),
    "fast h15 l5": (WINDOW, 12, 15, 1, 5, 0, FAST),
    "fast h15 l6": (WINDOW, 12, 15, 1, 6, 0, FAST),
    "fast h16 l5": (WINDOW, 12, 16, 1, 5, 0, FAST),
    "dfast c12 h13 l5": (WINDOW, 12, 13, 1, 5, 0, DFAST),
    "dfast c13 h14 l5": (WINDOW, 13, 14, 1, 5, 0, DFAST),
    "dfast c14 h14 l4": (WINDOW, 14, 14, 1, 4, 0, DFAST),
    "dfast c14 h15 l5": (WINDOW, 14, 15, 1, 5, 0, DFAST),
    "dfast c15 h16 l5": (WINDOW, 15, 16, 1, 5, 0, DFAST),
    "dfast c15 h16 l6": (WINDOW, 15, 16, 1, 6, 0, DFAST),
    "greedy c13 h14 s1": (WINDOW, 13, 14, 1, 5, 0, GREEDY),
    "greedy c15 h15 s2": (WINDOW, 15, 15, 2, 5, 0, GREEDY),
}


@dataclass
class Variant:
    """One way to compress, and what it took."""

    name: str
    make: Callable[[], tuple[zstandard.ZstdCompressor, zstandard.ZstdDecompressor]]
    compress_s: list[float] = field(default_factory=list)
    decompress_s: list[float] = field(default_factory=list)
    stored: int = 0
    unpacked: int = 0


def main() -> None:
    options = _options()
    step = options.every
    chosen, training = [], []
    for number, block in enumerate(_blocks(options.image, options.block)):
        if number % step == 0:
            chosen.append(block)
        elif number % step == step // 2:
            training.append(block)
    plain = sum(map(len, chosen))
    print(
        f"{options.image}: {len(chosen)} blocks of {options.block >> 10} KiB, "
        f"{plain / 1e6:.0f} MB (every {step}th unique nonzero block), "
        f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}, one thread"
    )
    variants = [
        variant
        for variant in _variants(training if options.dictionary else [])
        if variant.name == "level 1" or re.search(options.only, variant.name)
    ]
    for _ in range(options.rounds):
        for variant in variants:
            _measure(variant, chosen)
    level_one = next(variant.stored for variant in variants if variant.name == "level 1")
    rows = [_row(variant, plain, level_one, step) for variant in variants]
    report.print_table(
        ("parameters", "MB/s", "CPU s per image", "size", "MiB per image", "unpack MB/s"), rows
    )
    _print_noise(variants)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--block", type=int, default=64 << 10, help="bytes (default: 65536)")
    parser.add_argument("--every", type=int, default=4, help="take each Nth block (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="the best one counts (default: 3)")
    parser.add_argument("--no-dictionary", dest="dictionary", action="store_false")
    parser.add_argument("--only", default="", help="variants whose name matches (level 1 always)")
    return parser.parse_args()


def _blocks(path: str, size: int) -> Iterator[bytes]:
    """Yield the blocks that are not zeros, each content once, in the order of the image."""
    zeros = bytes(size)
    seen = set()
    with open(path, "rb", buffering=0) as image:
        end = os.fstat(image.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(image.fileno(), at, os.SEEK_DATA) // size * size
            except OSError:  # only a hole is left
                return
            block = os.pread(image.fileno(), size, at)
            at += size
            if block == zeros[: len(block)]:
                continue
            digest = hashlib.blake2b(block, digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                yield block


def _variants(training: list[bytes]) -> list[Variant]:
    made = [_of_level(level) for level in (-5, -1, 1, 2, 3)]
    made += [_of_parameters(name, values) for name, values in CUSTOM.items()]
    if training:
        count = max(1, _TRAINING_BYTES // len(training[0]))
        samples = training[:: max(1, len(training) // count)]
        for kib in _DICTIONARY_KIB:
            dictionary = zstandard.train_dictionary(kib << 10, samples, level=1)
            made += [_of_dictionary(kib, level, dictionary) for level in (-1, 1, 3)]
    return made


def _of_level(level: int) -> Variant:
    def make():
        return zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()

    return Variant(f"level {level}", make)


def _of_parameters(name: str, values: tuple[int, ...]) -> Variant:
    window, chain, table, search, match, target, strategy = values
    parameters = zstandard.ZstdCompressionParameters(
        window_log=window, chain_log=chain, hash_log=table, search_log=search, min_match=match,
        target_length=target, strategy=strategy, enable_ldm=False, write_content_size=1,
    )  # fmt: skip

    def make():
        packer = zstandard.ZstdCompressor(compression_params=parameters)
        return packer, zstandard.ZstdDecompressor()

    return Variant(name, make)


def _of_dictionary(kib: int, level: int, trained: zstandard.ZstdCompressionDict) -> Variant:
    def make():
        dictionary = zstandard.ZstdCompressionDict(trained.as_bytes())
        dictionary.precompute_compress(level=level)
        packer = zstandard.ZstdCompressor(level=level, dict_data=dictionary)
        return packer, zstandard.ZstdDecompressor(dict_data=dictionary)

    return Variant(f"level {level} + {kib} KiB dictionary", make)


def _measure(variant: Variant, blocks: list[bytes]) -> None:
    packer, unpacker = variant.make()
    compress, decompress = packer.compress, unpacker.decompress
    started = time.thread_time()
    packed = [compress(block) for block in blocks]
    variant.compress_s.append(time.thread_time() - started)
    worthwhile = []
    variant.stored = 0
    for block, frame in zip(blocks, packed, strict=True):
        if len(frame) < len(block) - (len(block) >> _RAW_SHIFT):
            worthwhile.append((block, frame))
            variant.stored += len(frame)
        else:
            variant.stored += len(block)
    started = time.thread_time()
    unpacked = [decompress(frame) for _, frame in worthwhile]
    variant.decompress_s.append(time.thread_time() - started)
    variant.unpacked = sum(map(len, unpacked))
    for (block, _), again in zip(worthwhile, unpacked, strict=True):
        if again != block:
            raise SystemExit(f"{variant.name}: a block came back changed")


def _row(variant: Variant, plain: int, level_one: int, step: int) -> tuple[str, ...]:
    return (
        variant.name,
        f"{plain / min(variant.compress_s) / 1e6:.0f}",
        f"{min(variant.compress_s) * step:.2f}",
        f"{variant.stored / level_one:.4f}",
        f"{variant.stored * step / 2**20:.0f}",
        f"{variant.unpacked / min(variant.decompress_s) / 1e6:.0f}",
    )


def _print_noise(variants: list[Variant]) -> None:
    spread = [max(variant.compress_s) / min(variant.compress_s) - 1 for variant in variants]
    print(
        f"Slowest against fastest round: median +{sorted(spread)[len(spread) // 2]:.0%}, "
        f"worst +{max(spread):.0%}."
    )


if __name__ == "__main__":
    main()
