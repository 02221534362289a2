"""`distjet simulate` as a job: `ray job submit --working-dir . -- python -m jobs.simulate FILE.yaml key=value`."""

from distjet.cli import run_verb

if __name__ == "__main__":
    run_verb("simulate")
