"""Time over the network: SNTP, as a user of connectionless endpoints."""
