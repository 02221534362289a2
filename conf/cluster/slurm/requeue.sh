# Sourced by the sbatch files beside it: run a command so that it may write a checkpoint before the job's time is over, and put the
# job back into the queue if it did. Slurm's `--signal=B:USR1@300` tells only the batch script, 300 s before; the verb must be told.
# shellcheck shell=bash

# Run a command, and pass on USR1 and TERM: to it, or to the process whose number is in the file $PID_FILE, if that is set (where
# the verb is started by another program, which a signal would end). Returns the command's exit code.
run_and_pass_on_signals() {
    local command code signalled
    "$@" &
    command=$!
    # shellcheck disable=SC2317 # called by the traps
    pass_on() {
        signalled=yes
        kill -s "$1" "$(cat "${PID_FILE:-/dev/null}")" 2>/dev/null || kill -s "$1" "$command"
    }
    trap 'pass_on USR1' USR1
    trap 'pass_on TERM' TERM
    while :; do
        signalled=no
        wait "$command"
        code=$?
        [[ $signalled == yes ]] || return "$code" # else `wait` was interrupted, and the command still runs
    done
}

# End the script with the exit code of the verb; 138 (128 + USR1) says that the time was over and a checkpoint was written.
# A cancelled job (143) is not put back; a preempted one is, by Slurm, where it is set up so.
finish() {
    if (($1 == 138)); then
        scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$1"
}
