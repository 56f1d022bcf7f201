"""Pin the golden values anew, all or those of the cases that are named: `cd tests && python -m golden.regenerate`."""

from __future__ import annotations

import sys

from golden.cases import CASES, CHECKPOINT, checkpoint_maps, save_golden_checkpoint
from golden.values import summary, write


def main(names: list[str]) -> None:
    if not CHECKPOINT.exists():
        save_golden_checkpoint()
        write("checkpoint_maps", checkpoint_maps())
    for name in names or CASES:
        write(name, {key: summary(value) for key, value in CASES[name].compute().items()})


if __name__ == "__main__":
    main(sys.argv[1:])
