"""``torchrun --rdzv-backend=rallypoint``: the entry point of group ``torchrun.handlers``.

Every torchrun on the machine loads this module when it starts, whatever backend it is told. So it imports nothing: what
it needs, it imports once a handler is made (``torchrun_handler``).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["create_handler", "get_handler"]


def get_handler() -> Callable[[Any], Any]:
    """Give what makes handlers, as torchrun asks an entry point."""
    return create_handler


def create_handler(params: Any) -> Any:
    """Make the handler of one torchrun.

    Args:
        params: torch's ``RendezvousParameters``; ``--rdzv-conf`` takes the options of ``rallypoint run``.

    Raises:
        ValueError: for an option that does not exist, naming the nearest that does, and for bad values.
        torch.distributed.elastic.rendezvous.RendezvousConnectionError: if the endpoint cannot be reached.
    """
    from rallypoint.integrations.torchrun_handler import make_handler

    return make_handler(params)
