#!/bin/sh
# Whether llama-server serves: its model is loaded.
set -eu
curl --silent --fail --output /dev/null --max-time "${1:-4}" "http://127.0.0.1:$LLAMA_PORT/health"
