"""Every figure of the README, one after the other: takes hours.

python -m benchmarks            all of them
python -m benchmarks.NAME -h    what one of them measures, and how to run it alone
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

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
    ("mixed_set",),
    ("training_memory",),
    ("distance",),
    ("coreset",),
    ("starter_speed",),
    ("machine_vision",),
)

DATA = (
    (Path("../shared/data/canister"), ("roi", "photos", "{}/photos", "{}/masks")),
    (Path("../shared/data/canister"), ("canister_photos", "{}/photos", "{}/masks")),
    (Path("../shared/data/magnetic_tile"), ("magnetic_tile", "{}")),
    (Path("../shared/data/magnetic_tile"), ("painted_tiles", "{}")),
)
"""Pictures that are no part of the project, and what is measured on them where they are at hand."""

names = sorted({command[0] for command in COMMANDS} | {command[0] for _, command in DATA})
parser = argparse.ArgumentParser(
    description=__doc__, epilog=f"names: {', '.join(names)}", formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.parse_args()

with_data = tuple(tuple(word.format(folder) for word in command) for folder, command in DATA if folder.is_dir())

for command in (*COMMANDS, *with_data):
    print(f"\n== python -m benchmarks.{' '.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]], check=False)
