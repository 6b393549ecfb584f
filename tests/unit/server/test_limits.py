from __future__ import annotations

import dataclasses
import math

import pytest

from rallypoint.protocol.spec import VALUE_SIZE_MAX
from rallypoint.server.limits import DEFAULT_LIMITS, Limits


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
@pytest.mark.parametrize("bound", [0, -1, math.nan])
def test_a_bound_that_is_not_above_0_is_refused_by_its_name(name: str, bound: float) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is {bound}, it must be above 0$"):
        dataclasses.replace(DEFAULT_LIMITS, **{name: bound})


def test_whatever_torch_can_send_in_one_request_fits_by_default() -> None:
    assert DEFAULT_LIMITS.input_size_max > 3 * VALUE_SIZE_MAX
    assert DEFAULT_LIMITS.input_total_max > DEFAULT_LIMITS.input_size_max
    assert DEFAULT_LIMITS.value_stored_size_max > VALUE_SIZE_MAX
