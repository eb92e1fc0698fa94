"""Shared fixtures: the bundled model and tiny models, loaded once; a home folder with a made model's results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import streamlit as st
from hypothesis import HealthCheck, settings

from quant_core import schema
from quant_core import workspace as workspace_module
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import Catalog, ModelInfo, ModelRef, ScoreTable
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from tests.made_catalog import CATALOG
from tests.served_pages import seed
from tests.tiny import CONFIGS, save

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
"""How fast a machine is, and what else it does, is no property of what is tested."""


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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder that pages use."""
    monkeypatch.setenv("QUANTLENS_HOME", str(tmp_path))
    st.cache_resource.clear()
    return tmp_path


@pytest.fixture
def made_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A catalog of things that no registry has, in the place of the program's own."""
    file = tmp_path / "catalog.json"
    file.write_text(json.dumps(schema.dump(CATALOG)), encoding="utf-8")
    monkeypatch.setattr(workspace_module, "CATALOG", file)
    return CATALOG


@pytest.fixture
def info(home: Path) -> ModelInfo:
    """A made model, in the home folder with its results."""
    return seed(home)


@pytest.fixture
def workspace(home: Path, info: ModelInfo) -> Workspace:
    """The workspace of the home folder, as pages open it."""
    return Workspace(home, roots=browser_roots())


@pytest.fixture
def table(info: ModelInfo) -> ScoreTable:
    """The made model's scores."""
    return made_results.table(info)
