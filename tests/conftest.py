"""What all tests share."""

import signal

# A script's background job ignores Ctrl-C, and so would every process these tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
