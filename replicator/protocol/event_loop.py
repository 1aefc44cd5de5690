"""Runs one thread's sockets, timers and callbacks, whenever that thread waits for something.

One round (`run_once`) waits for sockets, lets each one read and write, expires requests, runs timers and callbacks, and
last sends the requests that these made, all together: in every system call another task may take the interpreter's
lock. A socket's handler never calls the plane; it queues a callback. So when a callback raises, nothing is half done,
and the next round runs the remaining ones.

Threading: everything by one thread, but `call_soon_threadsafe`, which any thread may call.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from replicator.deadline import Deadline

LONGEST_SELECT_S = 0.1
"""Another thread may shorten a deadline at any moment: the loop notices within this time."""
SWEEP_S = 0.1
"""How often requests that timed out are searched for."""


class SocketHandler(Protocol):
    """A socket that the event loop waits for. None of these methods may raise."""

    def fileno(self) -> int: ...
    def on_ready(self, mask: int) -> None:
        """The socket can be read or written (`selectors.EVENT_READ`, `EVENT_WRITE`)."""

    def on_sweep(self, now_s: float) -> None:
        """Called every `SWEEP_S`; `now_s` is on the monotonic clock."""


class Timer:
    """A call that is scheduled for a moment in the future."""

    __slots__ = ("_call", "at_s")

    def __init__(self, at_s: float, call: Callable[[], None]) -> None:
        self.at_s = at_s
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Cancel the call, if it was not made yet."""
        self._call = None

    @property
    def is_pending(self) -> bool:
        return self._call is not None

    def fire(self) -> None:
        """Make the call, unless it was made or cancelled before."""
        call, self._call = self._call, None
        if call is not None:
            call()


class EventLoop:
    """See the module. A callback may call `run_once` itself, to wait for another response."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._handlers: dict[int, SocketHandler] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._queue: deque[Callable[[], None]] = deque()
        self._next_sweep_s = 0.0
        self._closers: list[Callable[[], None]] = []
        self._is_closed = False
        self._depth = 0
        """How many rounds are nested: a callback may run one."""
        self._end_of_round_calls: dict[Callable[[], None], None] = {}
        self._wake_sender, self._wake_receiver = socket.socketpair()
        for end in (self._wake_sender, self._wake_receiver):
            end.setblocking(False)
        self._selector.register(self._wake_receiver, selectors.EVENT_READ)

    # --- driving ------------------------------------------------------------------------------------------------------

    def run_once(self, wait_s: float) -> None:
        """Run one round; return as soon as something happened.

        Args:
            wait_s: the longest time to wait for a socket, in seconds.

        Raises:
            Exception: what a callback or a timer raised. The next round runs the remaining ones.
        """
        self._end_round()  # of the outer round, which is waiting for this one
        ready = self._selector.select(self._select_s(wait_s))
        self._depth += 1
        try:
            self._round(ready)
        finally:
            self._depth -= 1
            self._end_round()

    def _round(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, mask in ready:
            if key.fileobj is self._wake_receiver:
                self._drain_wakes()
                continue
            handler = self._handlers.get(key.fd)
            if handler is not None:
                handler.on_ready(mask)
        now_s = time.monotonic()
        if now_s >= self._next_sweep_s:
            self._sweep(now_s)
        if self._timers and self._timers[0][0] <= now_s:
            self._run_due(now_s)
        self._run_queued()

    def run_until(self, is_done: Callable[[], bool], deadline: Deadline) -> bool:
        """Run rounds until `is_done`: none if it is already, else at least one.

        Returns:
            Whether it is done.
        """
        while not is_done():
            self.run_once(deadline.slice_s(LONGEST_SELECT_S))
            if deadline.expired:
                return is_done()
        return True

    def run_for(self, seconds: float, deadline: Deadline) -> None:
        """Run rounds for so long, or until `deadline`."""
        self.run_until(lambda: False, Deadline(deadline.slice_s(seconds)))

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call from within `run_once`, after `seconds`."""
        timer = Timer(time.monotonic() + max(0.0, seconds), call)
        heapq.heappush(self._timers, (timer.at_s, next(self._order), timer))
        return timer

    def close(self) -> None:
        """Close every connection. No callback or timer is called afterwards."""
        if self._is_closed:
            return
        self._is_closed = True
        for closer in self._closers:
            closer()
        self._queue.clear()
        self._end_of_round_calls.clear()
        self._timers.clear()
        self._selector.close()
        self._handlers.clear()
        self._wake_sender.close()
        self._wake_receiver.close()

    # --- for connections ----------------------------------------------------------------------------------------------

    def watch(self, handler: SocketHandler, mask: int) -> None:
        """Begin to wait for a socket; `mask` as of `selectors`."""
        self._selector.register(handler.fileno(), mask)
        self._handlers[handler.fileno()] = handler

    def change(self, handler: SocketHandler, mask: int) -> None:
        """Wait for other events of the socket."""
        self._selector.modify(handler.fileno(), mask)

    def unwatch(self, handler: SocketHandler) -> None:
        """Stop waiting for a socket; to be called before it is closed."""
        if not self._is_closed:
            self._handlers.pop(handler.fileno(), None)
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(handler.fileno())

    def call_soon(self, call: Callable[[], None]) -> None:
        """Queue a callback for the end of this round, or for the next one. Callbacks run in order."""
        self._queue.append(call)

    def call_at_end_of_round(self, call: Callable[[], None]) -> None:
        """Call once at the end of this round, however often it is requested; outside of a round, call now.

        Args:
            call: must not raise.
        """
        if self._depth:
            self._end_of_round_calls[call] = None
        else:
            call()

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        """As `call_soon`, from any thread: a round that waits is woken. Does nothing after `close`."""
        self._queue.append(call)
        with contextlib.suppress(OSError):  # full: the loop wakes anyway; closed: no round is waiting
            self._wake_sender.send(b"\0")

    def on_close(self, closer: Callable[[], None]) -> None:
        """Register a function that `close` calls."""
        self._closers.append(closer)

    # --- a round ------------------------------------------------------------------------------------------------------

    def _end_round(self) -> None:
        calls, self._end_of_round_calls = self._end_of_round_calls, {}
        for call in calls:
            call()

    def _select_s(self, wait_s: float) -> float:
        if self._queue:
            return 0.0
        wait_s = min(wait_s, LONGEST_SELECT_S)
        while self._timers and not self._timers[0][2].is_pending:
            heapq.heappop(self._timers)
        if self._timers:
            wait_s = min(wait_s, self._timers[0][0] - time.monotonic())
        return max(0.0, wait_s)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_receiver.recv(4096):
                pass

    def _sweep(self, now_s: float) -> None:
        self._next_sweep_s = now_s + SWEEP_S
        for handler in list(self._handlers.values()):
            handler.on_sweep(now_s)

    def _run_due(self, now_s: float) -> None:
        """Run the timers that are due now; one that is set meanwhile waits for the next round."""
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2].fire()

    def _run_queued(self) -> None:
        """Run the callbacks queued so far; what they queue waits for the next round, so that a round always ends."""
        for _ in range(len(self._queue)):
            if not self._queue:  # a nested round ran them
                return
            self._queue.popleft()()
