"""One tiny pair, built once and opened once."""

from collections.abc import Iterator

import pytest

import forerun
from tiny_pairs import BuiltPair, build_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> BuiltPair:
    return build_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def engine(pair: BuiltPair) -> Iterator[forerun.Engine]:
    with forerun.load(pair.bundle, threads=1) as engine:
        yield engine
