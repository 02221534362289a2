# Sourced by the sbatch files beside it: run a command so that it may write a checkpoint before the job's time is over, and put the
# job back into the queue if it did. Slurm's `--signal=B:USR1@300` tells only the batch script, 300 s before; the verb must be told.
# shellcheck shell=bash

# Until the verb listens, there is nothing to write; and what is started here inherits this, so that nothing ends by USR1 itself,
# which would look like a verb that has written a checkpoint.
trap '' USR1

# Run a command, and pass on USR1 and TERM: to it, or to the process whose number is in the file $PID_FILE, if that is set (where
# the verb is started by another program, which a signal would end). Returns the command's exit code.
run_and_pass_on_signals() {
    local command code signalled
    "$@" &
    command=$!
    # shellcheck disable=SC2317,SC2329 # called by the traps; the rule changed its number in 0.11
    pass_on() {
        signalled=yes
        if [[ -z ${PID_FILE:-} ]]; then
            kill -s "$1" "$command" 2>/dev/null
        elif [[ -s $PID_FILE ]]; then
            kill -s "$1" "$(cat "$PID_FILE")" 2>/dev/null
        elif [[ $1 == TERM ]]; then
            kill -s TERM "$command" 2>/dev/null
        else
            echo "USR1 came before the command had started; it is not passed on" >&2
        fi
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

# End the script with the exit code of the verb; 138 (128 + USR1) says that the time was over and what there was to write is
# written. A job that comes to nothing in its time would go on for ever: it is put back DISTJET_MAX_RESTARTS times at most.
# A cancelled job (143) is not put back; a preempted one is, by Slurm, where it is set up so.
finish() {
    local restarts=${SLURM_RESTART_COUNT:-0} most=${DISTJET_MAX_RESTARTS:-100}
    if (($1 == 138 && restarts < most)); then
        scontrol requeue "$SLURM_JOB_ID"
    elif (($1 == 138)); then
        echo "the job was put back $restarts times, and is not again (DISTJET_MAX_RESTARTS=$most); sbatch continues the run" >&2
    fi
    exit "$1"
}
