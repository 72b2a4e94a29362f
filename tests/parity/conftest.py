"""Shared by the parity tests: tiny models, and one thread for torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.parity import architectures


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two frameworks' thread pools in one process wait for each other: ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model, by architecture; each is built once."""
    return cache(lambda name: architectures.build(name, tmp_path_factory.mktemp(name)))
