"""The verbs of distjet as entry points for a job scheduler."""
