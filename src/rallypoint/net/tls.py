"""TLS: the only file that knows ``ssl``. Certificates and their reloading, and one connection without its socket.

Both ends keep TLS apart from the socket (``Channel``): bytes of the network in, the peer's own bytes out, and the other
way round. So a server's loop never blocks in it (``server.secured``), and a client's stream keeps its deadlines and
hears signals (``net.tlsstream``).

What is set for everybody: TLS 1.2 or later, no renegotiation, no session tickets, no compression. A server with a
client authority takes nobody without a certificate of it (mutual TLS).

A server's files are looked at again when a client comes, at most every ``CHECK_S``. New ones are taken from then on;
connections that are open stay as they are. If the new ones are no good, the old ones stay, and one log line says why.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rallypoint.net.secret import check_is_private

__all__ = ["CHECK_S", "RECORD_SIZE", "SEAL_SIZE", "Channel", "ServerTls", "Tls", "TlsError", "client_context"]

CHECK_S = 1.0
"""How often a server looks whether its files have changed, in seconds."""

RECORD_SIZE = 16384
"""Bytes that TLS puts into one record at most."""

SEAL_SIZE = 4 * RECORD_SIZE
"""Bytes to encrypt at a time: more would wait in memory for the network."""

_NAME_SIZE_MAX = 256

_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's X509_V_ERR_*
_FOREIGN = frozenset({2, 18, 19, 20, 21, 24})
_OTHER_NAME = frozenset({62, 63, 64})
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})


class Tls(NamedTuple):
    """Which files a connection is secured with.

    Attributes:
        ca: the certificates of the authorities that the other side's certificate must come from. ``None``: a client
            trusts the system's, a server takes clients without certificates.
        cert: the own certificate, with those between it and the authority; a server must have one.
        key: its private key; ``None`` if it stands in ``cert``.
        name: the name that a client wants to see in the server's certificate, if not the host name that it calls.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    name: str | None = None


class TlsError(Exception):
    """TLS has failed; the text says what is wrong, about the other side.

    Attributes:
        is_final: trying again would not help.
    """

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


def _explained(error: ssl.SSLError) -> TlsError:
    """Say what is wrong with the other side, or what it says is wrong with us."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        code = error.verify_code
        if code == _EXPIRED:
            what = "its certificate has expired"
        elif code == _NOT_YET:
            what = "its certificate is not valid yet"
        elif code in _FOREIGN:
            what = f"its certificate does not come from a trusted authority ({error.verify_message})"
        elif code in _OTHER_NAME:
            what = f"its certificate is for another name: {error.verify_message.rstrip('.')}"
        else:
            what = f"its certificate is not accepted: {error.verify_message}"
        return TlsError(what, is_final=True)
    if "PEER_DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return TlsError("it brought no certificate", is_final=True)
    words = reason.lower().replace("_", " ")
    if "ALERT" in reason:
        said = words.partition("alert ")[2]
        is_ours = "certificate" in said or "unknown ca" in said or "access denied" in said
        return TlsError(f"it refuses {'our certificate' if is_ours else 'TLS with us'}: {said}", is_final=is_ours)
    if reason in _NOT_TLS:
        return TlsError("it does not speak TLS", is_final=False)
    return TlsError(f"TLS has failed: {words or error}", is_final=False)


# --- certificates ----------------------------------------------------------------------------------------


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load_own(context: ssl.SSLContext, tls: Tls) -> None:
    """Load the own certificate and its key.

    Raises:
        ValueError: in one sentence that names the file.
    """
    if tls.cert is None:
        return
    key = tls.key or tls.cert
    check_is_private(key)
    try:
        context.load_cert_chain(tls.cert, tls.key, password=_no_password)
    except (OSError, ValueError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
        raise ValueError(f"the certificate {tls.cert} and the key {key} cannot be used: {why}") from error


def _no_password() -> bytes:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
        raise ValueError(f"the authorities' certificates {path} cannot be used: {why}") from error


def client_context(tls: Tls, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """Give what a client's connections are made with.

    Args:
        tls: our files.
        protocols: what the connection is for, as ALPN names it; empty says nothing of it.

    Raises:
        ValueError: a file is missing or is not what it should be; the sentence names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if tls.ca is None:
        context.load_default_certs()
    else:
        _load_authorities(context, tls.ca)
    _load_own(context, tls)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def _server_context(tls: Tls) -> ssl.SSLContext:
    if tls.cert is None:
        raise ValueError("a server with TLS needs a certificate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_own(context, tls)
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, tls.ca)
    return context


class ServerTls:
    """A server's certificates, as new as their files.

    Args:
        tls: the files; with ``ca`` clients must bring a certificate of it.
        log: takes one line about files that were taken, or cannot be.

    Raises:
        ValueError: a file is missing or is not what it should be; the sentence names it.
    """

    def __init__(self, tls: Tls, log: Callable[[str], None]) -> None:
        self._tls = tls
        self._log = log
        self._seen = self._look()
        self._context = _server_context(tls)
        self._checked_at = float("-inf")

    def channel(self, now: float) -> Channel:
        """Begin one connection, with the newest certificate that is any good.

        Args:
            now: seconds on the caller's monotonic clock.
        """
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            self._refresh()
        return Channel(self._context, is_server=True)

    def _look(self) -> tuple[object, ...]:
        seen: list[object] = []
        for path in (self._tls.ca, self._tls.cert, self._tls.key):
            if path is not None:
                try:
                    found = os.stat(path)  # noqa: PTH116 - a path is text here
                    seen.append((found.st_ino, found.st_mtime_ns, found.st_size))
                except OSError as error:
                    seen.append(error.errno)
        return tuple(seen)

    def _refresh(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._context = _server_context(self._tls)
        except ValueError as error:
            self._log(f"goes on with the old certificate: {error}")
        else:
            self._log(f"has taken a new certificate from {self._tls.cert}")


# --- one connection --------------------------------------------------------------------------------------


class Channel:
    """TLS of one connection, without its socket.

    Args:
        context: certificates and rules.
        is_server: which side this is.
        name: the name that the server's certificate must have.

    Attributes:
        is_open: the handshake is done.
        has_ended: the peer has said that it sends no more.

    Threads: none but the caller's.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls", "has_ended", "is_open")

    def __init__(self, context: ssl.SSLContext, *, is_server: bool = False, name: str | None = None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server, server_hostname=name)
        self.is_open = False
        self.has_ended = False

    def open(self) -> None:
        """Go on with the handshake, as far as the bytes fed allow.

        Raises:
            TlsError: it has failed; what there is to send still goes out.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise _explained(error) from error
        self.is_open = True

    def feed(self, data: bytes) -> bytes:
        """Take what the network brought, and give what the peer says with it, empty if that is nothing yet.

        Raises:
            TlsError: the bytes are no TLS of this connection, or the peer refuses us.
        """
        self._incoming.write(data)
        if not self.is_open:
            self.open()
            if not self.is_open:
                return b""
        parts: list[bytes] = []
        try:
            while part := self._tls.read(SEAL_SIZE):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.has_ended = True
        except ssl.SSLError as error:
            raise _explained(error) from error
        else:
            self.has_ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seal(self, data: bytes | bytearray | memoryview) -> bytes:
        """Give the bytes that carry ``data`` over the network, behind whatever else is to be sent."""
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]
        return self._outgoing.read()

    def take_output(self) -> bytes:
        """Give what is to be sent for TLS's own sake; often nothing."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> bytes:
        """Give the bytes that tell the peer of the end."""
        with contextlib.suppress(ssl.SSLError, ValueError):  # it waits for the peer's word: we do not
            self._tls.unwrap()
        return self.take_output()

    def identity(self) -> bytes:
        """Give the name in the peer's certificate: the subject's common name, else its first alternative name.

        Raises:
            TlsError: there is a certificate, but no name in it, or one that is too long.
        """
        certificate: Any = self._tls.getpeercert()
        if not certificate:
            return b""
        subject = certificate.get("subject", ())
        names = [value for part in subject for key, value in part if key == "commonName"]
        names += [str(entry[1]) for entry in certificate.get("subjectAltName", ())]
        if not names:
            raise TlsError("its certificate has no name in it", is_final=True)
        name = str(names[0]).encode()
        if len(name) > _NAME_SIZE_MAX:
            message = f"the name in its certificate is {len(name)} bytes long, the limit is {_NAME_SIZE_MAX}"
            raise TlsError(message, is_final=True)
        return name
