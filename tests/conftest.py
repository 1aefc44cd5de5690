"""The options and fixtures of every tier; see tests/support."""

import signal

from hypothesis import settings

from tests.support.effort import PROFILE

pytest_plugins = ["tests.support.selection", "tests.support.groups_of_tests", "tests.support.brokers"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: the children would ignore Ctrl-C too
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's business
settings.register_profile("long", deadline=None, max_examples=2000)
settings.load_profile(PROFILE)
