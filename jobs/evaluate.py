"""`distjet evaluate` as a job: `ray job submit --working-dir . -- python -m jobs.evaluate FILE.yaml key=value`."""

from distjet.cli import run_verb

if __name__ == "__main__":
    run_verb("evaluate")
