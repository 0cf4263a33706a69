#!/usr/bin/env bash
# One night: score the manifest, audit the run against the nights before, filter it.
#
#   nightly.sh MANIFEST_URI STORE_URI [NIGHT [AUDIT_SETTING ...]]
#
# NIGHT, a date such as 2026-11-21, names the run; today's date (UTC) otherwise. The first night has no
# night before it: give it the setting --gates_unjudged=pass.
# Run from the project's folder; the same command again goes on where it stopped. Exit code: that of
# the first command that stopped the night (4: a gate is broken or has no baseline, and nothing was
# filtered), or 3 when more rows failed than allowed but the gates hold.
set -euo pipefail
manifest=$1 store=${2%/} night=${3:-$(date --utc +%F)}
run=$store/scores/run-$night
alarm=0

python jobs/score_manifest.py --config conf/score_manifest.yaml \
    --manifest.uri="$manifest" --output.uri="$store/scores" \
    --output.run_id="$night" --output.night="$night" --reuse-from=newest || alarm=$?
[[ $alarm -eq 0 || $alarm -eq 3 ]] || exit "$alarm" # 3: the results are published all the same

python jobs/audit_scores.py --config conf/nightly/audit_scores.yaml \
    --scores.uri="$run" --baseline.uri="$store/scores" \
    --baseline.audits_uri="$store/audits" --output.uri="$store/audits/$night" \
    "${@:4}"

python jobs/filter_scores.py --config conf/nightly/filter_scores.yaml \
    --scores.uri="$run" --output.uri="$store/filtered/$night"

exit "$alarm"
