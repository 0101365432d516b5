"""What the names of files say of their format and of how they are compressed."""

from __future__ import annotations

import os

PACKINGS = {
    ".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz", ".lz4": "lz4"
}  # fmt: skip
"""Suffix of a compressed file -> the format it stands for."""

_SHORT = {".tgz": ".gz", ".tbz2": ".bz2", ".tbz": ".bz2", ".txz": ".xz", ".tzst": ".zst"}

FAMILIES = {
    "text": (".txt", ".text", ".md", ".markdown"),
    "json lines": (".jsonl", ".ndjson", ".jsonlines"),
    "json": (".json",),
    "table": (".csv", ".tsv", ".tab"),
    "parquet": (".parquet",),
    "tar": (".tar",),
    "zip": (".zip",),
}
"""Formats of files, and the endings of their names, which may be followed by that of a packing."""

_FAMILY_OF = {suffix: family for family, suffixes in FAMILIES.items() for suffix in suffixes}


def packing_of(name: str) -> str:
    """Return the packing that the name ends in, such as 'gzip', or ''."""
    suffix = suffix_of(name)
    return PACKINGS.get(_SHORT.get(suffix, suffix), "")


def unpacked_name(name: str) -> str:
    """Return the name without the ending of its packing: a.txt of a.txt.gz, a.tar of a.tgz."""
    suffix = suffix_of(name)
    if suffix in _SHORT:
        return name[: -len(suffix)] + ".tar"
    return name[: -len(suffix)] if suffix in PACKINGS else name


def suffix_of(name: str) -> str:
    """Return the last suffix of a name, in lower case, or ''."""
    return os.path.splitext(name)[1].lower()


def bare_name(name: str) -> str:
    """Return the name without the endings of all its packings."""
    while packing_of(name):
        name = unpacked_name(name)
    return name


def family_of(name: str) -> str | None:
    """Return the key of FAMILIES that a name ends in, whatever its packing; None for no such."""
    return _FAMILY_OF.get(suffix_of(bare_name(name)))


def promised_format(name: str) -> str:
    """Return the binary format that the name promises, such as 'gzip' or 'zip'; '' for text."""
    family = family_of(name)
    return packing_of(name) or (family if family in ("tar", "zip", "parquet") else "")


def endings() -> str:
    """Return the endings of names that are read from folders, for a message."""
    return " ".join(suffix for suffixes in FAMILIES.values() for suffix in suffixes)
