"""The command `cangate`, from its very start."""

from __future__ import annotations

import signal


def main() -> None:
    """Import what a command line needs, and run it. An interrupt meanwhile ends the process without a traceback."""
    is_heeded = callable(signal.getsignal(signal.SIGINT))  # a shell has its background jobs ignore it
    if is_heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from service.cli.main import main as run  # noqa: PLC0415 - nothing is begun before

    if is_heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
