"""One tiny pair, built once and opened once."""

from collections.abc import Iterator

import pytest

import forerun
from tiny_pair import TinyPair, build_tiny_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TinyPair:
    return build_tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def engine(pair: TinyPair) -> Iterator[forerun.Engine]:
    with forerun.load(pair.bundle, threads=1) as engine:
        yield engine
