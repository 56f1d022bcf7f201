"""Signals that ask a run to stop: it ends after the step at work, with all saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATION = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""What a batch system sends, and a terminal that is closed."""

AGAIN = 1.0  # seconds within which a second signal is the first one, passed on


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C or a termination signal sets, so that no step is cut in two.

    A second one, a while later, acts at once. Both may come twice in one moment: from the terminal or the cluster, and
    from torchrun, which passes on what it got.
    """
    event, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not event.is_set():
            first = time.monotonic()
            event.set()
        elif time.monotonic() >= first + AGAIN:
            raise KeyboardInterrupt

    heeded = [number for number in (signal.SIGINT, *TERMINATION) if signal.getsignal(number) != signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
