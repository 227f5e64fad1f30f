#!/bin/sh
# Puts the model at $MODEL_FILE: from s3, gs, Azure blob storage or https, checked against $MODEL_SHA256.
# Run before llama-server starts. A file that was checked before is not fetched again; one that differs from
# the checksum never gets the name that llama-server reads. Replicas that share a volume do not disturb each other.
set -eu

folder=$(dirname "$MODEL_FILE")
checked=$MODEL_FILE.sha256
# Of this pod alone, so that two that start together do not write into one file.
partial=$MODEL_FILE.partial.${POD_NAME:-download}

say() { printf '%s\n' "download: $*"; }

if [ -f "$MODEL_FILE" ] && [ -f "$checked" ] && [ "$(cat "$checked")" = "$MODEL_SHA256" ]; then
    say "$MODEL_FILE is there and was checked"
    exit 0
fi

mkdir -p "$folder"
# What an earlier attempt of this pod, or one that died a day ago, left behind.
rm -f "$partial"
find "$folder" -maxdepth 1 -name '*.partial.*' -mmin +1440 -exec rm -f {} +

# The provider's own credentials of this pod are used (workload identity), none are given here.
case $MODEL_URI in
s3://*) source=":s3,provider=AWS,env_auth=true${MODEL_S3_REGION:+,region=$MODEL_S3_REGION}:${MODEL_URI#s3://}" ;;
gs://*) source=":gcs,env_auth=true,bucket_policy_only=true:${MODEL_URI#gs://}" ;;
azblob://*)
    rest=${MODEL_URI#azblob://}
    source=":azureblob,account=${rest%%/*},env_auth=true:${rest#*/}"
    ;;
https://*) source=$MODEL_URI ;;
*)
    say "cannot fetch \`$MODEL_URI\`: expected s3://, gs://, azblob:// or https://"
    exit 64
    ;;
esac

say "fetching $MODEL_URI"
case $source in
https://*)
    # Not on the command line, where whoever lists processes reads it.
    if [ -n "${MODEL_TOKEN:-}" ]; then
        RCLONE_HEADER="Authorization: Bearer $MODEL_TOKEN"
        export RCLONE_HEADER
    fi
    rclone copyurl --retries 5 --low-level-retries 20 --stats 30s --stats-one-line -v "$source" "$partial"
    ;;
*) rclone copyto --retries 5 --low-level-retries 20 --multi-thread-streams 8 --stats 30s --stats-one-line -v "$source" "$partial" ;;
esac

found=$(sha256sum "$partial" | cut -d' ' -f1)
if [ "$found" != "$MODEL_SHA256" ]; then
    rm -f "$partial"
    say "the sha256 of $MODEL_URI is $found, but model.sha256 is $MODEL_SHA256: another file, or a broken one"
    exit 1
fi
# The mark goes before the file it no longer speaks for, and comes after the one it does.
rm -f "$checked"
mv "$partial" "$MODEL_FILE"
printf '%s' "$MODEL_SHA256" >"$checked"
say "$MODEL_FILE is complete"
