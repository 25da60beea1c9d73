"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import pytest

import numbaconv

pytest.register_assert_rewrite("walks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under NUMBA_DISABLE_JIT=1 kernels run as Python; what needs compiled code can't run then."""
    if numba.config.DISABLE_JIT:
        skip = pytest.mark.skip(reason="needs compiled code, and NUMBA_DISABLE_JIT is set")
        for item in items:
            if item.get_closest_marker("compiled"):
                item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _exact() -> Iterator[None]:
    """Whole numbers make direct sums exact. Winograd's algorithm is tested where it is named."""
    numbaconv.set_algorithm("direct")
    yield
    numbaconv.set_algorithm("auto")


@pytest.fixture(autouse=True, scope="module")
def _threads_as_before() -> Iterator[None]:
    before = numbaconv.get_num_threads()
    yield
    numbaconv.set_num_threads(before)
