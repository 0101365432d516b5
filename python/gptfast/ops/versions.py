"""Versions of the packages that the kernels and the measured rules depend on."""

from importlib.metadata import PackageNotFoundError, version


def release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version: (3, 10) for "3.10.1+git"."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:  # not installed, or a build under another name
        return None


TRITON_VERSION = _triton_version()
