"""The ways in by which a recording is played to a running station."""
