from __future__ import annotations

import dataclasses
import math

import pytest
from tools import generate_limits

from rallypoint.protocol.spec import VALUE_SIZE_MAX
from rallypoint.server.limits import DEFAULT_LIMITS, MOST, Limits


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("bound", [0, -1, math.nan])
def test_a_bound_that_is_not_above_0_is_refused_by_its_name(name: str, bound: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is {bound}, it must be above 0$"):
        dataclasses.replace(DEFAULT_LIMITS, **{name: bound})


@pytest.mark.parametrize(("name", "most"), MOST.items())
def test_what_the_wire_does_not_allow_is_refused_with_the_bound(name: str, most: float) -> None:
    dataclasses.replace(DEFAULT_LIMITS, **{name: most})
    with pytest.raises(ValueError, match=f"^{name} is {most + 1}, it must be {most} at most$"):
        dataclasses.replace(DEFAULT_LIMITS, **{name: most + 1})


def test_the_page_of_limits_is_complete_and_as_they_are() -> None:
    page = generate_limits.OUTPUT.read_text(encoding="utf-8")
    assert page == generate_limits.page(), "run python tools/generate_limits.py"
    for field in dataclasses.fields(Limits):
        assert f"| `{field.name}` |" in page


def test_whatever_torch_can_send_in_one_request_fits_by_default() -> None:
    assert DEFAULT_LIMITS.input_size_max > 3 * VALUE_SIZE_MAX
    assert DEFAULT_LIMITS.input_total_max > DEFAULT_LIMITS.input_size_max
    assert DEFAULT_LIMITS.value_stored_size_max > VALUE_SIZE_MAX
