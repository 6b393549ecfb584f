"""What a client proves itself with, and what it wants proven: token, identity, certificates.

They come from the environment, so that workers have them as the program that starts them does: ``RALLYPOINT_TOKEN`` or
``RALLYPOINT_TOKEN_FILE``, and ``RALLYPOINT_TLS_CA``, ``_CERT``, ``_KEY`` and ``_NAME``. A store can be given other
files for TLS; a token is never an argument, where tracebacks and lists of processes could show it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls
    from rallypoint.protocol.session.auth import Token
    from rallypoint.server.security import Security

__all__ = ["NO_CREDENTIALS", "Credentials", "credentials_to_use", "has_token", "security_of_environment"]


class Credentials(NamedTuple):
    """What one client has.

    Attributes:
        identity: whose token it is; empty for the job's.
        token: what both sides are to prove that they have; ``None`` if nothing is to be proven.
        tls: our files; ``None`` for no TLS.
    """

    identity: bytes = b""
    token: Token | None = None
    tls: Tls | None = None

    def named(self, host: str) -> Credentials:
        """Give the same for a server whose certificate is for this name, unless the files' owner has said another."""
        if self.tls is None or self.tls.name is not None:
            return self
        return self._replace(tls=self.tls._replace(name=host))


NO_CREDENTIALS = Credentials()

_TLS_ENV = ("RALLYPOINT_TLS_CA", "RALLYPOINT_TLS_CERT", "RALLYPOINT_TLS_KEY", "RALLYPOINT_TLS_NAME")


def has_token() -> bool:
    """Tell whether the environment names a token."""
    return bool(os.environ.get("RALLYPOINT_TOKEN") or os.environ.get("RALLYPOINT_TOKEN_FILE"))


def credentials_to_use(tls: Tls | bool | None = None) -> Credentials:
    """Give what the environment says.

    Args:
        tls: other files than the environment names; true for TLS even if it names none, with the authorities that the
            system trusts; false for no TLS.

    Raises:
        ValueError: a token is none, its file is readable by others, or holds several; the sentence does not show it.
    """
    files = _files(tls)
    if not has_token():
        return NO_CREDENTIALS if files is None else Credentials(tls=files)
    from rallypoint.server.security import read_tokens

    tokens = read_tokens(os.environ)
    if len(tokens) > 1:
        raise ValueError(f"the token file has {len(tokens)} tokens: a client must have one line, its own")
    ((identity, token),) = tokens.items()
    return Credentials(identity.encode(), token, files)


def security_of_environment(tls: Tls | bool | None = None) -> Security | None:
    """Give what a server embedded in this program is to want: what its clients prove, and the networks that need not.

    Args:
        tls: as for ``credentials_to_use``. A server without a certificate of its own serves no TLS.

    Raises:
        ValueError: as ``credentials_to_use``, or a network is none.
    """
    files = _files(tls)
    if not has_token() and (files is None or files.cert is None):
        if os.environ.get("RALLYPOINT_ALLOW_PLAIN"):  # it means nothing here, and is checked all the same
            from rallypoint.server.security import read_networks

            read_networks(os.environ)
        return None
    from rallypoint.server.security import Security, read_networks, read_tokens

    server_files = files if files is not None and files.cert is not None else None
    return Security(read_tokens(os.environ), None, read_networks(os.environ), server_files)


def _files(tls: Tls | bool | None) -> Tls | None:
    if tls is False:
        return None
    if not isinstance(tls, (bool, type(None))):
        from rallypoint.net.tls import Tls

        if not isinstance(tls, Tls):
            raise TypeError(f"tls must be a Tls, a bool or None, not {type(tls).__name__}")
        return tls
    names = [os.environ.get(variable) or None for variable in _TLS_ENV]
    if not tls and not any(names):
        return None
    from rallypoint.net.tls import Tls

    return Tls(*names)
