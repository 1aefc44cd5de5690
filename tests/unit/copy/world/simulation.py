"""Virtual time: events in order, and processes that run one at a time, each until it waits.

A process is a thread that runs only while the simulation waits for it, so a run is the same each time. It can be killed
wherever it waits: `Died` is raised there, which no code of the product catches.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

START_S = 1_000_000.0
MAX_ZERO_WAITS = 1000
LONG_S = 3600.0
LOOK_EVERY_S = 0.05


class Died(BaseException):
    """The process was killed."""


class StuckError(AssertionError):
    """What was waited for did not come, in an hour of virtual time."""


class Process:
    """Runs `body` on a thread of its own, whenever the simulation says so.

    Attributes:
        wake_s: when it goes on; it waits until then.
        error: what ended it, if anything but its own return or its death did.
    """

    def __init__(self, simulation: Simulation, body: Callable[[], None]) -> None:
        self.wake_s = simulation.now_s
        self.is_over = False
        self.is_killed = False
        self.error: BaseException | None = None
        self._simulation = simulation
        self._body = body
        self._turn = threading.Lock()
        self._back = threading.Lock()
        self._turn.acquire()
        self._back.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self.is_killed:
                self._body()
        except Died:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.is_over = True
            self._back.release()

    def resume(self) -> None:
        """Let it run until it waits or ends."""
        self.wake_s = math.inf
        self._turn.release()
        self._back.acquire()
        if self.is_over:
            self._thread.join()

    def park(self, until_s: float) -> None:
        """Wait, in the process itself. As long as it is alone, it drives the simulation meanwhile."""
        self.wake_s = until_s
        while not self.is_killed and self._simulation.drive(self):
            if self.wake_s == math.inf:
                return
        if not self.is_killed:
            self._back.release()
            self._turn.acquire()
        if self.is_killed:
            raise Died


class Simulation:
    """See the module.

    Attributes:
        now_s: the monotonic clock of everything in it.
        effects: how many requests clusters have worked on so far.
        current: the process that runs now.
    """

    def __init__(self) -> None:
        self.now_s = START_S
        self.effects = 0
        self.current: Process | None = None
        self.processes: list[Process] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._zero_waits = 0
        self._limit_s = self._effects_limit = math.inf
        self._is_done: Callable[[], Any] = lambda: False
        self._look_s = 0.0
        self._failure: BaseException | None = None

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call in `seconds`."""
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), call))

    def start(self, body: Callable[[], None]) -> Process:
        """Begin a process; it runs with the next step."""
        process = Process(self, body)
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """End a process where it waits."""
        process.is_killed = True
        if not process.is_over:
            self._resume(process)
        assert process.is_over

    def _resume(self, process: Process) -> None:
        before, self.current = self.current, process
        process.resume()
        self.current = before
        if process.is_over:
            self.processes.remove(process)
            if process.error is not None:
                raise process.error

    # --- for what waits -----------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Let time go by; returns early when the process is woken."""
        if seconds <= 0:
            self._zero_waits += 1
            if self._zero_waits < MAX_ZERO_WAITS:
                return
            seconds = 0.001
        self._zero_waits = 0
        if self.current is None:
            self.run(for_s=seconds)
        else:
            self.current.park(self.now_s + seconds)

    def sleep(self, seconds: float) -> None:
        """Let all of this time go by."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.wait(end_s - self.now_s)

    def wake(self, process: Process | None) -> None:
        """Something came for a process."""
        if process is not None:
            process.wake_s = min(process.wake_s, self.now_s)

    # --- one step -----------------------------------------------------------------------------------------------------

    def drive(self, process: Process | None) -> bool:
        """Do the next event, or begin the turn of `process`; False where another one's is next, or the run is over."""
        if self._has_to_stop():
            return False
        following = min(self.processes, key=lambda it: it.wake_s, default=None)
        wake_s = following.wake_s if following is not None else math.inf
        event_s = self._events[0][0] if self._events else math.inf
        if min(wake_s, event_s) > self._limit_s:
            return False
        if event_s <= wake_s:
            self.now_s = max(self.now_s, event_s)
            self._do(heapq.heappop(self._events)[2])
            return True
        if following is not process or following is None:
            return False
        self.now_s = max(self.now_s, wake_s)
        following.wake_s = math.inf
        return True

    def _do(self, event: Callable[[], None]) -> None:
        before, self.current = self.current, None
        try:
            event()
        except BaseException as error:
            self._failure = error
        self.current = before

    def _has_to_stop(self) -> bool:
        if self._failure is not None or self.effects >= self._effects_limit:
            return True
        if self.now_s < self._look_s:
            return False
        self._look_s = self.now_s + LOOK_EVERY_S
        return bool(self._is_done())

    # --- for the test -------------------------------------------------------------------------------------------------

    def run(self, *, effects: float = math.inf, for_s: float = LONG_S) -> None:
        """Go on until so many effects happened, or for so long."""
        limits = self._limit_s, self._effects_limit
        self._limit_s = self.now_s + for_s
        self._effects_limit = self.effects + effects
        while not self._has_to_stop() and self._step():
            pass
        if self.effects < self._effects_limit and not self._is_done():
            self.now_s = max(self.now_s, self._limit_s)
        self._limit_s, self._effects_limit = limits
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _step(self) -> bool:
        if self.drive(None):
            return True
        following = min(self.processes, key=lambda it: it.wake_s, default=None)
        is_turn = following is not None and following.wake_s <= self._limit_s and not self._has_to_stop()
        if not is_turn or following is None:
            return False
        self.now_s = max(self.now_s, following.wake_s)
        self._resume(following)
        return True

    def run_until(self, is_done: Callable[[], Any], within_s: float = LONG_S, what: Callable[[], str] = str) -> None:
        """Go on until `is_done`, which is asked every now and then.

        Raises:
            StuckError: it was not, within so much virtual time.
        """
        self._is_done, self._look_s = is_done, 0.0
        self.run(for_s=within_s)
        self._is_done = lambda: False
        if not is_done():
            raise StuckError(f"not within {within_s:g} s: {what()}")


class Event:
    """`threading.Event` in virtual time."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float) -> bool:
        """Until it is set, at most so long."""
        end_s = self._simulation.now_s + timeout
        while not self._is_set and self._simulation.now_s < end_s:
            self._simulation.wait(min(0.1, end_s - self._simulation.now_s))
        return self._is_set
