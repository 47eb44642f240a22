"""The protocol of multicast sessions: one sender, many receivers, repairs on request.

Rules: no I/O, no clock, no randomness: datagrams, the time and random numbers are arguments, so
that a seed replays a run. `aerogram.lan.multicast` gives it sockets and users. `wire` has the
format.
"""
