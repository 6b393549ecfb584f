from __future__ import annotations

from rallypoint.errors import store as errors


def test_torch_code_finds_the_kinds_it_catches() -> None:
    assert issubclass(errors.QueueEmptyError, errors.DistStoreError)
    assert issubclass(errors.StoreTimeoutError, errors.DistStoreError)


def test_an_error_has_the_kind_that_python_has_for_it() -> None:
    assert issubclass(errors.NotANumberError, ValueError)
    assert issubclass(errors.AccessDeniedError, PermissionError)
