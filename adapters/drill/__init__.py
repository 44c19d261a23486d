"""Fault drills: a line on this machine, things that break on purpose, and a ledger of what became of every part."""
