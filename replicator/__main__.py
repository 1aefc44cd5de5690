"""``python -m replicator``, and the console script."""

import gc

gc.disable()  # until `main`: nothing that is imported is garbage, and looking costs a tenth of the start

from replicator.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
