"""`distjet import-weights` as a job: `ray job submit --working-dir . -- python -m jobs.import_weights FILE.yaml key=value`."""

import sys

if __package__ is None and not sys.flags.safe_path:  # run as a file: from its folder, `import inspect` would find a job
    sys.path[0] = sys.path[0].rpartition("/")[0]

from distjet.cli import main

if __name__ == "__main__":
    main("import-weights")
