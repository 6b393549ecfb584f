"""torch's process groups on stores of ours.

::

    import rallypoint.integrations.torch  # once, in each worker: torch looks for no plug-ins

    torch.distributed.init_process_group("gloo", init_method="rallypoint://head:29500/run-7")

or with a store in hand::

    from rallypoint.integrations.torch import as_torch_store

    torch.distributed.init_process_group("gloo", store=as_torch_store(store), rank=rank, world_size=world_size)

Importing this module imports torch, in order to register the URL schemes.
"""

from __future__ import annotations

from rallypoint.integrations.torch_store import as_torch_store
from rallypoint.integrations.torch_url import SCHEMES, meet

__all__ = ["as_torch_store", "register"]

_registered: set[str] = set()


def register() -> None:
    """Make ``init_process_group`` know ``rallypoint://`` and its sisters; done when this module is imported.

    Raises:
        ImportError: if torch is not installed.
        RuntimeError: if somebody else has registered one of the schemes.
    """
    from torch.distributed.rendezvous import register_rendezvous_handler

    for scheme in SCHEMES:
        if scheme not in _registered:
            register_rendezvous_handler(scheme, meet)
            _registered.add(scheme)


register()
