"""Recorded parts: played again, compared with what was said of them before."""
