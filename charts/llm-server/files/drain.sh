#!/bin/sh
# Holds llama-server's end back until its last answer is complete: at SIGTERM it would end every stream.
# $1: seconds in which requests still come, before the sidecar stops taking them; $2: the longest stream, in seconds.
set -eu
sleep "$1"
deadline=$(($(date +%s) + $2))
# Idle twice in a row: between two looks a request may still be on its way from the sidecar.
idle=0
while [ "$idle" -lt 2 ] && [ "$(date +%s)" -lt "$deadline" ]; do
    busy=$(curl --silent --fail --max-time 2 "http://127.0.0.1:$LLAMA_PORT/metrics" |
        awk '/^llamacpp:requests_(processing|deferred) / { busy += $2; seen = 1 } END { print seen ? busy : "unknown" }') || busy=unknown
    case $busy in
    0) idle=$((idle + 1)) ;;
    # Not loaded yet, or gone: nothing to wait for.
    unknown) exit 0 ;;
    *) idle=0 ;;
    esac
    # Each look delays the moment at which llama-server notices clients that have left.
    sleep 2
done
