"""The sans-I/O protocol core: no sockets, no clock, no randomness, no logging."""
