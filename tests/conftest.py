"""Shared fixtures: the bundled model and tiny models, loaded once."""

from __future__ import annotations

import pytest

from quant_core.models.loading import LoadedModel, load
from quant_core.schema import ModelRef
from tests.tiny import CONFIGS, save


@pytest.fixture(scope="session")
def bundled() -> LoadedModel:
    """The model that ships with the project."""
    return load(ModelRef("bundled"))


@pytest.fixture(scope="session", params=list(CONFIGS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny random model of each architecture in turn."""
    return load(ModelRef(str(save(request.param, tmp_path_factory.mktemp("tiny")))))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny random Llama with a tied embedding."""
    return load(ModelRef(str(save("llama", tmp_path_factory.mktemp("llama")))))
