"""Which trainings to try next, and what the ones so far have shown; no part of where they run."""
