"""For all suites: what a test starts has the signals of a program that a terminal starts.

The test command itself may ignore some: under nohup, as a background job of a script, as a worker of pytest-xdist. It goes
on to do so by a handler, which, other than SIG_IGN, ends with exec()."""
import signal

# Python ignores them itself, and subprocess gives them back to what it starts
PYTHONS_OWN = {signal.SIGPIPE, signal.SIGXFSZ}


def pytest_configure():
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - PYTHONS_OWN:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
