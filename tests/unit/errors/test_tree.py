"""The page of all exceptions."""

from __future__ import annotations

import re

import pytest

from rallypoint import errors


def test_every_error_is_listed_and_shown_in_the_tree() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert classes == set(errors.__all__)
    drawn = set(re.findall(r"\w+(?:Error|Exception)\b", errors.__doc__ or ""))
    assert classes <= drawn


def test_every_error_is_named_by_where_it_is_had() -> None:
    assert {getattr(errors, name).__module__ for name in errors.__all__} == {"rallypoint.errors"}


@pytest.mark.parametrize("name", errors.__all__)
def test_code_that_catches_runtime_error_goes_on_working(name: str) -> None:
    assert issubclass(getattr(errors, name), RuntimeError)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if "Timeout" in name])
def test_every_timeout_is_a_timeout_error(name: str) -> None:
    assert issubclass(getattr(errors, name), TimeoutError)
