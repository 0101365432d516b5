"""What importing parts of the model costs, each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest


def imported_by(code: str) -> set[str]:
    """The modules that are loaded after running `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import gptfast.model",
        "from gptfast.model.config import Positions",
        "from gptfast.model import ModelConfig; ModelConfig(65)",
    ],
)
def test_a_configuration_needs_no_torch(code: str) -> None:
    modules = imported_by(code)
    assert "gptfast.model" in modules
    assert "torch" not in modules


def test_models_are_loaded_when_they_are_used() -> None:
    modules = imported_by(
        "from gptfast.model import GPT, LanguageModel, ModelConfig, build_model\n"
        "assert type(build_model(ModelConfig(5, 'gpt', 4, 1, 1, 4))) is GPT\n"
        "assert issubclass(GPT, LanguageModel)"
    )
    assert "torch" in modules


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import gptfast.model

    with pytest.raises(AttributeError, match=r"module 'gptfast.model' has no attribute 'LSTM'"):
        _ = gptfast.model.LSTM
