#!/usr/bin/env bash
# Everything on a new machine: installs what the tests need, then verifies. Arguments go to scripts/setup.sh.
set -euo pipefail
here=$(dirname "$0")
"$here/setup.sh" "$@"
"$here/verify.sh"
