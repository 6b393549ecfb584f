from __future__ import annotations

from tools import generate_spec

from rallypoint.protocol.spec import CloseReason, Verb


def test_the_native_twins_table_is_what_the_python_twin_says():
    assert generate_spec.main(["--check"]) == 0


def test_a_stale_table_is_told(tmp_path, capsys):
    table = tmp_path / "spec.inc"
    assert generate_spec.main(["--output", str(table)]) == 0
    assert generate_spec.main(["--check", "--output", str(table)]) == 0
    table.write_text(table.read_text().replace("kKeySizeMax = 8192", "kKeySizeMax = 8191"))
    assert generate_spec.main(["--check", "--output", str(table)]) == 1
    assert "is stale: run python tools/generate_spec.py" in capsys.readouterr().out


def test_a_table_that_is_not_there_is_stale(tmp_path):
    assert generate_spec.main(["--check", "--output", str(tmp_path / "spec.inc")]) == 1


def test_verbs_and_reasons_carry_the_numbers_that_both_twins_use():
    table = generate_spec.text()
    assert all(f" {verb.name} = {verb.value}," in table for verb in Verb)
    assert all(f" {reason.name} = {number}," in table for number, reason in enumerate(CloseReason))
