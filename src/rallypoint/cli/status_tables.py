"""Status documents as text for people: plain columns, so that a terminal, a pipe and a log show the same."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from rallypoint.observe.status import (
    Barriers,
    Document,
    Keys,
    Leases,
    MemberEntry,
    Overview,
    Peers,
    Refusals,
    Sessions,
    WaitEntry,
    Watches,
)

__all__ = ["show", "shown_age", "shown_size", "table"]

_NEAR = 0.5  # a limit is shown from so much of it on
_CELL_MAX = 100
_NAMED_MAX = 6


def show(document: Document) -> str:
    """Give a document as text, without a line's end behind it."""
    return _SECTIONS[type(document)](document)


# --- sections --------------------------------------------------------------------------------------------


def _overview(seen: Overview) -> str:
    now, rates = seen.now, seen.rates
    data = f"data {seen.data}" if seen.data != seen.life else "in memory"
    connections = f"{now.connections} connections ({now.validated} past their handshake, {now.paused} paused)"
    groups = f"{now.groups} barriers and exchanges"
    traffic = f"in {shown_size(rates.received_size_per_s)}/s, out {shown_size(rates.sent_size_per_s)}/s"
    total = f"{seen.totals.requests} requests since the start"
    lines = [
        f"rallypoint {seen.rallypoint}, {seen.twin} twin, up {shown_age(seen.uptime_s)}",
        f"speaks {', '.join(seen.dialects)}; life {seen.life}, {data}",
        f"{connections}, {now.sessions} sessions, {now.waiting} waits",
        f"{now.keys} keys and {now.queues} queues in {shown_size(now.stored_size)}",
        f"{groups}, {now.leases} leases, {now.watches} watches",
        f"{rates.requests_per_s:.1f} requests/s, {traffic} over {shown_age(rates.over_s)}; {total}",
    ]
    if seen.closed:
        lines.append("closed: " + ", ".join(f"{count} {reason}" for reason, count in sorted(seen.closed.items())))
    near = [(name, bound) for name, bound in seen.limits.items() if bound.used >= _NEAR * bound.limit]
    shown = ", ".join(f"{name} {bound.used} of {bound.limit}" for name, bound in near)
    lines.append(f"near a limit: {shown}" if near else "no limit is near")
    return "\n".join(lines)


def _peers(seen: Peers) -> str:
    heads = ["PEER", "DIALECT", "ADDRESS", "IDENTITY", "LABEL", "AGE", "IN", "OUT", "WAITS FOR"]
    rows = (
        [
            str(peer.peer),
            peer.dialect or "(none yet)",
            peer.address,
            peer.identity,
            peer.label,
            shown_age(peer.age_s),
            shown_size(peer.received_size),
            shown_size(peer.sent_size),
            _waits(peer.waits) + (" (paused)" if peer.is_paused else ""),
        ]
        for peer in seen.peers
    )
    return _listed("peers", seen, heads, rows)


def _sessions(seen: Sessions) -> str:
    heads = ["SESSION", "PEER", "IDENTITY", "LABEL", "AGE", "ENDS IN", "ANSWERS", "WAITS FOR"]
    rows = (
        [
            str(each.session),
            "none" if each.peer is None else str(each.peer),
            each.identity,
            each.label,
            shown_age(each.age_s),
            "" if each.ends_in_s is None else shown_age(each.ends_in_s),
            f"{each.answers} ({shown_size(each.answers_size)})",
            _waits(each.waits),
        ]
        for each in seen.sessions
    )
    return _listed("sessions", seen, heads, rows)


def _barriers(seen: Barriers) -> str:
    heads = ["KIND", "NAME", "GENERATION", "ARRIVED", "MISSING", "GONE", "WAITING"]
    rows = (
        [
            each.kind,
            each.name,
            str(each.generation),
            f"{each.arrived} of {each.members}",
            _members(each.missing),
            _members(each.gone),
            _members(each.waiting),
        ]
        for each in seen.barriers
    )
    return _listed("barriers", seen, heads, rows)


def _leases(seen: Leases) -> str:
    rows = (
        [
            str(each.lease),
            str(each.session),
            each.identity,
            "session" if each.ttl_s is None else shown_age(each.ttl_s),
            "" if each.left_s is None else shown_age(each.left_s),
            str(each.keys),
        ]
        for each in seen.leases
    )
    return _listed("leases", seen, ["LEASE", "SESSION", "IDENTITY", "LIVES", "LEFT", "KEYS"], rows)


def _watches(seen: Watches) -> str:
    rows = (
        [
            str(each.session),
            each.key + ("*" if each.is_prefix else ""),
            str(each.kept),
            "yes" if each.has_missed else "",
        ]
        for each in seen.watches
    )
    return _listed("watches", seen, ["SESSION", "KEY", "KEPT", "MISSED"], rows)


def _refusals(seen: Refusals) -> str:
    rows = ([shown_age(each.age_s), each.reason, each.address, each.detail] for each in seen.refusals)
    return _listed("refusals", seen, ["AGO", "REASON", "ADDRESS", "WHY"], rows)


def _keys(seen: Keys) -> str:
    has_values = any(key.value is not None for key in seen.keys)
    heads = ["KEY", "SIZE", "REVISION", *(["VALUE"] if has_values else [])]
    rows = (
        [
            key.key,
            shown_size(key.size),
            f"queue of {key.items}" if key.items is not None else str(key.revision),
            *([_value(key.value, key.size)] if has_values else []),
        ]
        for key in seen.keys
    )
    return _listed("keys", seen, heads, rows)


def _value(text: str | None, size: int) -> str:
    if text is None:
        return ""
    data = b64decode(text)
    return repr(data)[1:] + (" ..." if len(data) < size else "")


def _waits(waits: Sequence[WaitEntry]) -> str:
    return "; ".join(
        f"{wait.verb} {' '.join(wait.names)}"
        + (f" and {wait.names_left_out} more" if wait.names_left_out else "")
        + f" for {shown_age(wait.since_s)}"
        for wait in waits
    )


def _members(members: Sequence[MemberEntry]) -> str:
    named = [
        str(member.rank)
        + (f" ({member.label})" if member.label else "")
        + ("" if member.since_s is None else f" {shown_age(member.since_s)}")
        for member in members[:_NAMED_MAX]
    ]
    return ", ".join(named) + (f" and {len(members) - _NAMED_MAX} more" if len(members) > _NAMED_MAX else "")


def _listed(name: str, document: Document, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    total, left_out = getattr(document, "total", 0), getattr(document, "left_out", 0)
    if not total:
        return f"no {name}"
    text = table(heads, list(rows))
    return f"{text}\nand {left_out} more" if left_out else text


_SECTIONS: Final[dict[type[Document], Callable[[Any], str]]] = {
    Overview: _overview,
    Peers: _peers,
    Sessions: _sessions,
    Barriers: _barriers,
    Leases: _leases,
    Watches: _watches,
    Refusals: _refusals,
    Keys: _keys,
}


# --- words -----------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give rows in columns; what does not print is shown as escapes, and only the last column may be wide."""
    shown = [[_cell(cell, is_last=at == len(row) - 1) for at, cell in enumerate(row)] for row in rows]
    cells = [list(heads), *shown]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _cell(text: str, *, is_last: bool) -> str:
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return text if is_last or len(text) <= _CELL_MAX else text[: _CELL_MAX - 3] + "..."


def shown_size(size: float) -> str:
    """Give a number of bytes in three digits or so: ``0 B``, ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def shown_age(seconds: float) -> str:
    """Give a duration in its two largest units: ``0.25 s``, ``3 min 20 s``, ``2 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(whole)
