from __future__ import annotations

import msgspec
import pytest

from rallypoint.observe.figures import Bound, Now, Rates, Totals


@pytest.mark.parametrize("kind", [Bound, Now, Rates, Totals])
def test_figures_are_numbers_and_all_must_be_there(kind: type[msgspec.Struct]) -> None:
    fields = dict.fromkeys(kind.__struct_fields__, 3)
    assert msgspec.to_builtins(msgspec.convert(fields, kind)) == fields
    for name in fields:
        with pytest.raises(msgspec.ValidationError, match=name):
            msgspec.convert({**fields, name: "many"}, kind)
        with pytest.raises(msgspec.ValidationError, match=name):
            msgspec.convert({key: value for key, value in fields.items() if key != name}, kind)


def test_a_newer_servers_further_figures_are_left_alone() -> None:
    assert msgspec.convert({"used": 1, "limit": 2, "since": 3}, Bound) == Bound(1, 2)
