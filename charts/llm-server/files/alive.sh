#!/bin/sh
# Whether llama-server lives: 0 while it answers, be it with 503, which says that it still loads its model; 1 when
# nobody answers. A load may take minutes, and to restart it then would start it again from nothing.
set -eu
status=$(curl --silent --output /dev/null --max-time "${1:-4}" --write-out '%{http_code}' "http://127.0.0.1:$LLAMA_PORT/health") || {
    echo "llama-server does not answer"
    exit 1
}
case $status in
200 | 503) exit 0 ;;
*)
    echo "llama-server answers $status"
    exit 1
    ;;
esac
