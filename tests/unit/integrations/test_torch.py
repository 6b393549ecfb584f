"""Importing ``rallypoint.integrations.torch`` tells torch of our URLs."""

from __future__ import annotations

import pytest
from tests.support.torch_peers import torch_dist

from rallypoint.integrations import torch
from rallypoint.integrations.torch_store import as_torch_store


def test_torch_knows_the_schemes_and_registering_again_changes_nothing() -> None:
    torch.register()
    with pytest.raises(ValueError, match="names no run"):
        torch_dist.init_process_group("gloo", init_method="rallypoint://127.0.0.1:1", rank=0, world_size=1)


def test_the_adapter_is_found_here() -> None:
    assert torch.as_torch_store is as_torch_store
