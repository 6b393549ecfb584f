"""Certificates for tests, made on the spot: nothing with an end date lies in the repository."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme

from rallypoint.net.tls import Tls

LONG_AGO = datetime.now(timezone.utc) - timedelta(days=2)


class Authority:
    """One certificate authority, its files in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._ca = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)
        self._count = 0

    def issue(self, *hosts: str, common_name: str | None = None, is_expired: bool = False) -> Tls:
        """Give the files of one more member: its certificate, its key, and this authority."""
        self._count += 1
        stem = self._folder / f"member-{self._count}"
        self.write(stem, *hosts, common_name=common_name, is_expired=is_expired)
        return Tls(self.file, f"{stem}.pem", f"{stem}.key")

    def write(self, stem: Path, *hosts: str, common_name: str | None = None, is_expired: bool = False) -> None:
        """Write a certificate and its key to ``stem``.pem and ``stem``.key, each put in its place whole."""
        not_after = LONG_AGO + timedelta(days=1) if is_expired else None
        leaf = self._ca.issue_cert(*hosts, common_name=common_name, not_before=LONG_AGO, not_after=not_after)
        for suffix, blobs in ((".key", [leaf.private_key_pem]), (".pem", leaf.cert_chain_pems)):
            new = Path(f"{stem}{suffix}.new")
            new.touch(mode=0o600)
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            new.replace(f"{stem}{suffix}")
