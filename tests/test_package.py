"""What a user installs: a wheel built from the source distribution has everything in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MATURIN = Path(sys.executable).with_name("maturin")


@pytest.mark.slow
@pytest.mark.skipif(
    not (MATURIN.exists() and shutil.which("cargo")), reason="needs maturin and cargo"
)
def test_a_wheel_built_from_the_sdist_is_complete(tmp_path: Path) -> None:
    # By the profile and into the folder of `make build`: cargo compiles again what differs, and
    # misses what is not there.
    environment = os.environ | {"CARGO_TARGET_DIR": str(ROOT / "target")}
    subprocess.run([MATURIN, "sdist", "--out", tmp_path], cwd=ROOT, check=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    # Not --locked: Cargo.lock has the benches, too, which the sdist leaves out.
    subprocess.run(
        [MATURIN, "build", "--release", "--offline", "--out", tmp_path / "wheel"],
        cwd=unpacked, env=environment, check=True,
    )  # fmt: skip
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("gptfast/")}
    in_tree = {
        f"gptfast/{path.relative_to(ROOT / 'python' / 'gptfast').as_posix()}"
        for pattern in ("*.py", "*.pyi", "*.json", "*.js", "*.css", "*.html", "py.typed")
        for path in (ROOT / "python" / "gptfast").rglob(pattern)
    }
    # rglob does not follow the symlink to kernels/.
    in_tree |= {f"gptfast/kernels/{path.name}" for path in (ROOT / "kernels").iterdir()
                if path.is_file()}  # fmt: skip
    assert in_tree <= packed
    assert "gptfast/kernels/flash_attention.py" in packed
    assert any(name.startswith("gptfast/_rust.") and name.endswith((".so", ".pyd"))
               for name in packed)  # fmt: skip
    assert not any("__pycache__" in name for name in packed)
