from __future__ import annotations

import os

import click
import pytest

from rallypoint.cli.run import run
from rallypoint.cli.token import TOKEN_BYTES, give_token
from rallypoint.protocol.session.auth import Token

CONTEXT = click.Context(run)


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_TOKEN", "")
    monkeypatch.delenv("RALLYPOINT_TOKEN_FILE", raising=False)
    return monkeypatch


def test_a_run_of_one_node_gets_a_token_of_its_own():
    give_token(CONTEXT, 1)
    first = os.environ["RALLYPOINT_TOKEN"]
    assert len(Token(first).reveal()) == 2 * TOKEN_BYTES
    os.environ["RALLYPOINT_TOKEN"] = ""
    give_token(CONTEXT, 1)
    assert os.environ["RALLYPOINT_TOKEN"] != first


@pytest.mark.parametrize("name", ["RALLYPOINT_TOKEN", "RALLYPOINT_TOKEN_FILE"])
def test_a_token_that_was_given_stays(environ, name):
    environ.setenv(name, "given")
    give_token(CONTEXT, 4)
    assert os.environ[name] == "given"


def test_several_nodes_must_be_given_one():
    with pytest.raises(click.UsageError, match="--auth can make a token for one node only, and --nnodes allows 4"):
        give_token(CONTEXT, 4)
    assert os.environ["RALLYPOINT_TOKEN"] == ""
