"""Sockets and datagram transports: everything that touches the kernel."""
