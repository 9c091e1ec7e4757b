"""One hand-made bundle for all tests of the Python face, opened once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import forerun
from table_bundle import TableBundle, make_table_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> TableBundle:
    return make_table_bundle(tmp_path_factory.mktemp("bundles") / "table")


@pytest.fixture(scope="session")
def ending_bundle(tmp_path_factory: pytest.TempPathFactory) -> TableBundle:
    """The script ends with EOS; no chat template."""
    return make_table_bundle(tmp_path_factory.mktemp("bundles") / "ending", ends=True, chat=False)


@pytest.fixture(scope="session")
def shared_engine(bundle: TableBundle) -> Iterator[forerun.Engine]:
    with forerun.load(bundle.path, threads=1) as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: forerun.Engine) -> forerun.Engine:
    """The shared engine, proven to be free: a test that leaves it busy fails the next one here."""
    shared_engine.rounds([1], max_new_tokens=1).close()
    return shared_engine


@pytest.fixture(scope="session")
def ending_engine(ending_bundle: TableBundle) -> Iterator[forerun.Engine]:
    with forerun.load(ending_bundle.path, threads=1) as engine:
        yield engine


@pytest.fixture
def fresh(tmp_path: Path) -> TableBundle:
    """A bundle of its own, for tests that change its files."""
    return make_table_bundle(tmp_path / "fresh")
