"""``rallypoint status`` on torch's servers: what is possible there."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tests.support.torch_peers import torch_server

from rallypoint.cli.commands import group


@pytest.mark.parametrize("use_libuv", [True, False], ids=["libuv", "legacy"])
def test_a_torch_server_shows_its_keys_as_far_as_it_lists_them(use_libuv):
    server = torch_server(use_libuv=use_libuv)
    server.set("answer", "42")
    address = f"127.0.0.1:{server.port}"
    result = CliRunner().invoke(group, ["status", address])
    assert result.exit_code == 3, result.output
    assert "speaks c10d only, as torch's servers do" in result.output
    assert "answer" in result.output or "which it does not list" in result.output
    document = json.loads(CliRunner().invoke(group, ["status", address, "--json"]).output)
    assert (document["version"], document["section"]) == (0, "plain")
    assert document["keys"] >= 1
    del server
