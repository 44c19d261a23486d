"""`python -m benchmarks`: every figure of the README, one after the other."""

from __future__ import annotations

import subprocess
import sys

COMMANDS = (
    ("line",),
    ("wire",),
    ("overload",),
    ("chaos",),
    ("soak", "--minutes", "10"),
    ("plc",),
    ("plc", "--server", "node-opcua"),
    ("plc", "--triggers", "300", "--kills", "5"),
    ("latency",),
    ("subscribers",),
    ("accuracy_rendered", "--station", "0"),
    ("roi", "rendered"),
    ("roi", "time"),
    ("replay", "ways"),
    ("replay", "memory"),
    ("recording",),
    ("anomaly_map",),
    ("distance",),
    ("coreset",),
    ("machine_vision",),
)

for command in COMMANDS:
    print(f"\n== python -m benchmarks.{' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]], check=False)
