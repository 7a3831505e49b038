"""The small random pipelines that several of these tests compare with, each built and saved once."""

from pathlib import Path
from typing import Any

import pytest

from . import pipelines


@pytest.fixture(scope="session")
def text_pipeline() -> Any:
    """Text to image."""
    return pipelines.text_to_image()


@pytest.fixture(scope="session")
def variation_pipeline() -> Any:
    """Image variations, with the same weights where both have them."""
    return pipelines.image_variation()


@pytest.fixture(scope="session")
def karlo(text_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first one's folder, as the hub has it."""
    return pipelines.save(text_pipeline, tmp_path_factory.mktemp("karlo"))


@pytest.fixture(scope="session")
def variations(variation_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second one's folder, in pickles."""
    return pipelines.save(variation_pipeline, tmp_path_factory.mktemp("variations"), pickles=True)
