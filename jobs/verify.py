"""`distjet verify` as a job: `ray job submit --working-dir . -- python -m jobs.verify DATASET key=value`."""

from distjet.cli import run_verb

if __name__ == "__main__":
    run_verb("verify")
