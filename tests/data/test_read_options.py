from __future__ import annotations

from typing import Any

import pytest

from gptfast.data.documents import ReadOptions
from gptfast.errors import UserError


def test_sizes_are_bytes_or_have_a_unit() -> None:
    assert ReadOptions().memory_bytes is None
    sizes = (512, "512", "600MB", "2g", "64 kB")
    assert [ReadOptions(memory_limit=size).memory_bytes for size in sizes] == [
        512, 512, 600_000_000, 2_000_000_000, 64_000,
    ]  # fmt: skip
    for size in ("", "MB", "-1", "1.5GB", "3TB"):
        with pytest.raises(UserError, match="expected a size such as 600MB"):
            ReadOptions(memory_limit=size)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"field": 5}, "field is a int: expected the key of the text"),
        ({"column": None}, "column is None: expected the name of the text's column"),
        ({"on_error": "stop"}, "on_error is 'stop': expected 'raise' or 'skip'"),
        ({"n_threads": "2"}, "n_threads is '2': expected a whole number"),
        ({"n_threads": 0}, "n_threads is 0: expected at least 1"),
        ({"memory_limit": 0}, "memory_limit is 0: expected at least 1"),
        ({"memory_limit": 1.5}, "memory_limit is 1.5: expected a whole number"),
    ],
)
def test_options_that_can_not_be_used(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        ReadOptions(**options)
