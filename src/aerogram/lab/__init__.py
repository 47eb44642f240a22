"""The lab: networks as bad as you like, replayable by seed."""
