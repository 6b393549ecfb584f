"""The checks of keys and values: each finds out a store that does otherwise."""

from __future__ import annotations

from tests.support.faulty_stores import checks_of, find_out, over_faults

from rallypoint.store.hash import HashStore
from rallypoint.testing import key_checks as checks


class GetGivesText(HashStore):
    def get(self, key, /):
        return super().get(key).decode(errors="replace")


class AddKeepsNoText(HashStore):
    def add(self, key, amount, /):
        total = super().add(key, amount)
        super().set(key, total.to_bytes(8, "little", signed=True))
        return total


class CompareSetSaysWhetherItWrote(HashStore):
    def compare_set(self, key, expected, desired, /):
        return b"1" if super().compare_set(key, expected, desired) == desired else b"0"


class DeleteKeyIsAlwaysTrue(HashStore):
    def delete_key(self, key, /):
        super().delete_key(key)
        return True


class AppendOfTheSameIsLost(HashStore):
    def append(self, key, value, /):
        if not self.check([key]) or self.get(key) != value.encode():
            super().append(key, value)


class MultiSetTakesUnequalLists(HashStore):
    def multi_set(self, keys, values, /):
        for key, value in zip(keys, values):  # noqa: B905 - the fault
            self.set(key, value)


class NumKeysCountsTwice(HashStore):
    def num_keys(self):
        return 2 * super().num_keys()


class ListsInternalKeys(HashStore):
    def list_keys(self):
        return [*super().list_keys(), "refcount/"]


class OneStringIsAList(HashStore):
    def check(self, keys, /):
        return super().check(list(keys))


class SlashesAreCut(HashStore):
    def set(self, key, value, /):
        super().set(key.strip("/"), value)


class FirstSetWins(HashStore):
    def set(self, key, value, /):
        if not self.check([key]):
            super().set(key, value)


class ValuesAreCut(HashStore):
    def set(self, key, value, /):
        super().set(key, value[:65536])


class NumbersMustBeDigits(HashStore):
    def add(self, key, amount, /):
        if self.check([key]) and not self.get(key).decode().lstrip("-").isdigit():
            raise AssertionError(f"{self.get(key)!r} is not a number")
        return super().add(key, amount)


class SomeAddsAreLost(HashStore):
    def add(self, key, amount, /):
        total = super().add(key, amount)
        return super().add(key, -amount) if total == 7 else total


class SwapsAlwaysSucceed(HashStore):
    def compare_set(self, key, expected, desired, /):
        self.set(key, desired)
        return desired.encode()


class CheckIsAny(HashStore):
    def check(self, keys, /):
        return any(super(CheckIsAny, self).check([key]) for key in keys)


class SomeAppendsAreLost(HashStore):
    def append(self, key, value, /):
        if "7" not in value:
            super().append(key, value)


class MultiGetSorts(HashStore):
    def multi_get(self, keys, /):
        return super().multi_get(sorted(keys))


class ClonesAreNew(HashStore):
    def clone(self):
        return ClonesAreNew().short()

    def short(self):
        self.set_timeout(0)
        self.get = lambda key: b"nothing"
        return self


class TimeoutIsFixed(HashStore):
    def set_timeout(self, timeout, /):
        super().set_timeout(30)


class YesIsOne(HashStore):
    def has_extended_api(self):
        return 1


FAULTS = [
    (checks.check_values_come_back_as_bytes, GetGivesText, "gave 'text', expected b'text'"),
    (checks.check_keys_are_any_text, SlashesAreCut, "get('a') gave b'value of /a', expected b'value of a'"),
    (checks.check_the_last_set_wins, FirstSetWins, "gave b'a longer first value', expected b'second'"),
    (checks.check_large_values, ValuesAreCut, "get of a large value gave b'"),
    (checks.check_add_counts_in_decimal_text, AddKeepsNoText, "not the decimal text"),
    (checks.check_add_takes_white_space, NumbersMustBeDigits, "b' 7 \\t ' is not a number"),
    (checks.check_add_is_atomic, SomeAddsAreLost, "4 threads with 25 add(1) each gave"),
    (checks.check_compare_set, CompareSetSaysWhetherItWrote, "gave b'0', expected b'expected'"),
    (checks.check_compare_set_has_one_winner, SwapsAlwaysSucceed, "in 4 threads gave [b'thread 0', b'thread 1'"),
    (checks.check_check, CheckIsAny, "check of a present and a missing key gave True, expected False"),
    (checks.check_delete_key, DeleteKeyIsAlwaysTrue, "delete_key of a missing key gave True, expected False"),
    (checks.check_num_keys, NumKeysCountsTwice, "gave 10, expected 5"),
    (checks.check_list_keys, ListsInternalKeys, "expected ['a', 'b/c']"),
    (checks.check_append, AppendOfTheSameIsLost, "gave b'ab', expected b'aab'"),
    (checks.check_append_is_atomic, SomeAppendsAreLost, "concurrent appends gave"),
    (checks.check_multi_set_and_get, MultiGetSorts, "gave [b'1', b'1', b'2', b''], expected [b'', b'1', b'2', b'1']"),
    (checks.check_multi_set_with_unequal_lists, MultiSetTakesUnequalLists, "was accepted, expected a RuntimeError"),
    (checks.check_one_string_is_no_list_of_keys, OneStringIsAList, "check('key') was accepted, expected a TypeError"),
    (
        checks.check_clones_share_the_data,
        ClonesAreNew,
        "the clone's get of a key set by the store gave b'nothing', expected b'1'",
    ),
    (
        checks.check_the_timeout_can_be_read,
        TimeoutIsFixed,
        "gave datetime.timedelta(seconds=30), expected datetime.timedelta(seconds=7, microseconds=500000)",
    ),
    (checks.check_it_says_whether_it_has_the_extended_api, YesIsOne, "gave <class 'int'>, expected <class 'bool'>"),
]


@over_faults(FAULTS)
def test_a_fault_is_found_and_described(check, faulty, detail, monkeypatch):
    find_out(check, faulty, detail, monkeypatch)


def test_every_check_is_tried():
    assert {check.__name__ for check, *_ in FAULTS} == checks_of(checks)
