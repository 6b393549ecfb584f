"""One thread waits for a key, another sets it, both on the same store object.

python examples/two_threads.py            # rallypoint: the waiting thread has its answer at once
python examples/two_threads.py torch      # torch: the set waits for the wait, and the wait for its timeout
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from datetime import timedelta

TIMEOUT_S = 3.0


def main(module: str) -> None:
    make_store = importlib.import_module(module).TCPStore
    store = make_store("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store.set_timeout(timedelta(seconds=TIMEOUT_S))
    started = time.monotonic()
    verdict: list[str] = []

    def wait() -> None:
        try:
            value = store.get("answer")
        except RuntimeError as error:
            verdict.append(f"the wait failed with {type(error).__name__}")
        else:
            verdict.append(f"the wait gave {value!r}")

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)  # so that the wait is under way
    store.set("answer", "42")
    set_s = time.monotonic() - started - 0.3
    waiting.join()
    print(f"{module}: {verdict[0]}; the set was {'held up by it' if set_s > TIMEOUT_S / 2 else 'not held up'}")


if __name__ == "__main__":
    main("torch.distributed" if "torch" in sys.argv[1:] else "rallypoint")
