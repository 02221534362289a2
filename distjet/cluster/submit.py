"""How does a verb run as a job on a Ray cluster, as if it ran here?

`distjet submit VERB ...` does what this does, with four differences:

    ray job submit --working-dir . --runtime-env conf/runtime_env.yaml -- python -m jobs.VERB ...

The configuration and the upload are checked first, also for secrets. The exit code is the verb's (Ray's command knows only 0
and 1). A job that was submitted with the same id is followed, so that a retried command does not train twice. A log that breaks
off with the connection goes on where it was.

The process here only watches. Ctrl-C ends the watching, not the job: whoever closes a laptop must not lose a night's training.
"""

import asyncio
import logging
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distjet.cluster.upload import Upload, check_paths, upload_of
from distjet.config import Config
from distjet.errors import ConfigError, UserError
from distjet.storage import without_secrets

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"What may stand in the address of a job."

FROM_ENVIRONMENT = re.compile(r"\$\{oc\.env:\w+\}")
"What stands for a secret on a command line. With a default value, that could be the secret."

POLL_S, PATIENCE_S = 1.0, 300.0
"How often a server that does not answer is asked again, and for how long."

LAST_TRIES = 5
"How often the log of a job that has ended is asked for in vain: it is lost with the node on which the job ran."

STOPPED_CODE = 128 + signal.SIGTERM
"Ray knows no exit code of a job that was stopped; this is the verb's after the SIGTERM that it got."


@dataclass(frozen=True)
class JobOptions:
    """How a job is submitted; no part of what it computes."""

    address: str | None = None
    "Of the job server, e.g. http://127.0.0.1:8265; null: RAY_API_SERVER_ADDRESS, else the Ray that runs on this machine."
    submission_id: str | None = None
    "Name of the job; null: Ray makes one."
    wait: bool = True
    "Whether to follow the job to its end."
    num_cpus: float | None = None
    "Cores for the verb's own process, which then runs where they are; null: on the head."
    num_gpus: float | None = None
    "GPUs for the verb's own process."

    def __post_init__(self) -> None:
        """Check the id, which becomes part of an address."""
        if self.submission_id is not None and not ID_PATTERN.fullmatch(self.submission_id):
            raise ConfigError(f"a submission id has letters, digits, '.', '_' and '-' (got {self.submission_id!r})")


def submit(verb: str, arguments: Sequence[str], files: Sequence[Path], config: Config, options: JobOptions) -> int:
    """Submit a verb as a job, or find the job of the same id, and follow it.

    Args:
        verb: Name of the verb.
        arguments: Its command line, as it would be given here.
        files: The configuration files in it.
        config: What they add up to, valid.
        options: Where and how.

    Returns:
        The verb's exit code; 0 without waiting.

    Raises:
        ConfigError: If the job would not find its files or would lose its output, the working directory is too large, secrets
            would be sent, the id belongs to another job, or the server cannot be reached.
    """
    check_arguments(arguments)
    _prepare_ray()
    upload = upload_of(Path.cwd())
    upload.check_files(files)
    check_paths(config, travelling=upload.sizes)
    upload.check_size()
    upload.check_secrets()
    client = connect(options.address)
    submission_id = _submit_or_find(client, entrypoint(verb, arguments), upload, options)
    logger.info("to follow it: %s", command(client, submission_id))
    return follow(client, submission_id) if options.wait else 0


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse secrets on the command line, which Ray keeps and shows to everybody who sees its dashboard.

    Raises:
        ConfigError: If there is one; the message does not repeat it.
    """
    for argument in arguments:
        shown = FROM_ENVIRONMENT.sub("***", argument)
        if (masked := without_secrets(shown)) != shown:
            raise ConfigError(
                f"{masked}: everybody who sees the cluster's dashboard can read the command line of a job. Put the secret into "
                "an environment variable, here and on the cluster's nodes, and write '${oc.env:NAME}' in its place"
            )


def entrypoint(verb: str, arguments: Sequence[str]) -> str:
    """Write the command that the cluster gives to a shell; a folder without `distjet/` uses the distjet of the cluster.

    It is not `jobs.VERB`, which does the same here, but may be anything in somebody's own folder.
    """
    return shlex.join(["python", "-m", "distjet", verb, *arguments])


def command(client: Any, submission_id: str, *options: str) -> str:
    """Write the command that follows a job, or with an option does something else to it."""
    address = without_secrets(client.get_address())
    return shlex.join(["distjet", "submit", "--address", address, "--submission-id", submission_id, *options])


def connect(address: str | None) -> Any:
    """Reach a job server, with the token of this user.

    Returns:
        A `ray.job_submission.JobSubmissionClient`.

    Raises:
        ConfigError: If there is none, or it does not accept the token.
    """
    if address is not None:  # an address without http:// would be that of a cluster, which is reached on another port
        address = address if "://" in address else f"http://{address}"
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # which goes before the argument
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConfigError(
            f"the job server does not accept this user: {str(error).splitlines()[0]}\nPut the cluster's token into "
            "~/.ray/auth_token (or its path into RAY_AUTH_TOKEN_PATH); RAY_AUTH_MODE=disabled is for a cluster without tokens."
        ) from error
    except ConnectionError as error:
        raise ConfigError(
            f"{error} Give the address of the cluster's job server with --address or in RAY_API_SERVER_ADDRESS; a head that "
            "listens on its own localhost is reached through a tunnel: ssh -N -L 8265:127.0.0.1:8265 HEAD"
        ) from error


def _prepare_ray() -> None:
    """Set what Ray reads when it is imported: the token is used unless the user says otherwise, and its messages are ours."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray._private.runtime_env import packaging, working_dir
    from ray.dashboard.modules import dashboard_sdk
    from ray.dashboard.modules.job import sdk

    for module in (dashboard_sdk, sdk, packaging, working_dir):
        logging.getLogger(module.__name__).setLevel(logging.ERROR)


def _submit_or_find(client: Any, wanted: str, upload: Upload, options: JobOptions) -> str:
    try:
        submission_id = client.submit_job(
            entrypoint=wanted,
            runtime_env=dict(upload.runtime_env),
            submission_id=options.submission_id,
            entrypoint_num_cpus=options.num_cpus,
            entrypoint_num_gpus=options.num_gpus,
        )
    except RuntimeError:
        job = None if options.submission_id is None else find(client, options.submission_id)
        if job is None:
            raise
        if job.entrypoint != wanted:
            raise ConfigError(
                f"the submission id {job.submission_id} belongs to another job, which was submitted as\n  {job.entrypoint}\n"
                f"and not as\n  {wanted}\nChoose another id."
            ) from None
        hint = " (to run it again, choose another id)" if job.status.is_terminal() else ""
        logger.info("job %s exists (%s); it is not submitted again%s", job.submission_id, job.status.value, hint)
        return job.submission_id
    logger.info("job %s: %s", submission_id, without_secrets(wanted))
    return submission_id


def find(client: Any, submission_id: str) -> Any:
    """Return the details of a job, or None if the server has none of this id."""
    return next((job for job in client.list_jobs() if job.submission_id == submission_id), None)


def follow(client: Any, submission_id: str) -> int:
    """Copy the log of a job to stdout until it ends.

    Returns:
        The exit code of the job, see `exit_code`; 130 if Ctrl-C ended the watching.
    """
    try:
        return exit_code(asyncio.run(_copy_log(client, submission_id)))
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nThe job {submission_id} runs on.\n  follow it: {command(client, submission_id)}\n"
            f"  stop it:   {command(client, submission_id, '--stop')}\n"
        )
        return 128 + signal.SIGINT


def follow_existing(options: JobOptions) -> int:
    """Follow the job of an id; see `follow`."""
    client, job = _existing(options)
    return follow(client, job.submission_id)


def stop(options: JobOptions) -> int:
    """Ask a job to stop, which writes a checkpoint first, and follow it to its end if wanted.

    Returns:
        The exit code of the job, or 0 without waiting.
    """
    client, job = _existing(options)
    if not client.stop_job(job.submission_id):
        logger.info("job %s has ended before (%s)", job.submission_id, job.status.value)
    return follow(client, job.submission_id) if options.wait else 0


def _existing(options: JobOptions) -> tuple[Any, Any]:
    _prepare_ray()
    client = connect(options.address)
    assert options.submission_id is not None
    job = find(client, options.submission_id)
    if job is None:
        known = ", ".join(item.submission_id for item in client.list_jobs() if item.submission_id) or "none"
        raise ConfigError(f"{without_secrets(client.get_address())} has no job {options.submission_id!r}; its jobs: {known}")
    return client, job


def exit_code(job: Any) -> int:
    """Return a job's exit code as a shell would: that of its command, 128 + N after signal N, 1 if it never started."""
    if job.status.value == "STOPPED":
        return STOPPED_CODE
    if job.driver_exit_code is None:
        sys.stderr.write(f"the job could not run: {job.message}\n")
        return 1
    return job.driver_exit_code if job.driver_exit_code >= 0 else 128 - job.driver_exit_code


async def _copy_log(client: Any, submission_id: str) -> Any:
    """Write what a job prints; after a lost connection the log comes from its beginning, and what was written is skipped.

    Returns:
        The details of the job, which has ended; its log was read to the end, unless the node with it is gone.
    """
    import aiohttp

    num_written = num_vain = 0
    while True:
        num_read, num_before, is_whole = 0, num_written, False
        try:
            async for text in client.tail_job_logs(submission_id):
                sys.stdout.write(text[max(num_written - num_read, 0) :])
                sys.stdout.flush()
                num_read += len(text)
                num_written = max(num_written, num_read)
            is_whole = True
        except (RuntimeError, aiohttp.ClientError) as error:
            logger.debug("the log broke off: %s", error)
        job = _patiently(lambda: client.get_job_info(submission_id))
        num_vain = num_vain + 1 if job.status.is_terminal() and num_written == num_before else 0
        if num_vain == LAST_TRIES:
            logger.warning("the rest of the log of job %s cannot be read", submission_id)
        if job.status.is_terminal() and (is_whole or num_vain == LAST_TRIES):
            return job
        await asyncio.sleep(POLL_S)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask a server that may be away for a while.

    Raises:
        UserError: If it stays away, or knows nothing of what was asked for.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except RuntimeError as error:
            raise UserError(f"the job server has lost the job (was the cluster restarted?): {error}") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(f"the job server has not answered for {PATIENCE_S:.0f} s: {error}") from error
        time.sleep(POLL_S)
