"""A run in a process of its own: ``python -m runtime.command CONFIG``, with the tests' directory as the working directory."""

from __future__ import annotations

import sys
from pathlib import Path

from bci_align.config import LiveConfig
from bci_align.errors import BciAlignError
from bci_align.runtime.live import LiveSystem

from .fakes import ENDLESS


def run_like_the_command(config: LiveConfig) -> int:
    """What ``bci-align run`` does: decode until Ctrl-C."""
    try:
        with LiveSystem(config, ENDLESS) as live:
            live.wait_ready(60.0)
            sys.stdout.write(f"{live.decoder_pid} {live.aligner_pid}\n")
            sys.stdout.flush()
            while live.decoding:
                live.poll(0.5)
    except BciAlignError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    raise SystemExit(run_like_the_command(LiveConfig.model_validate_json(sys.argv[1])))
