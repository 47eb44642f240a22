"""The local network: finding servers, and one sender to many receivers."""
