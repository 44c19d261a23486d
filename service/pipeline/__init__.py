"""Frames in, inspections out. No asyncio, no I/O."""
