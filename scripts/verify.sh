#!/usr/bin/env bash
# The one command before every commit: format, lints, tests, documentation, dependencies. Changes nothing but the build folder.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    local started=$SECONDS
    printf '\n== %s\n' "$*"
    "$@"
    printf '== %s s\n' "$((SECONDS - started))"
}

step cargo fmt --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo clippy --locked --all-targets --no-default-features -- -D warnings
# Unit tests, integration tests and doc tests. Those of `bus_amqp` wait for brokers, processes and clocks more than they work, so
# more of them run at once than there are cores.
step cargo test --locked --test bus_amqp -- --test-threads "$((2 * $(nproc)))"
step cargo test --locked --lib --bins --examples --test it --test chaos
step cargo test --locked --doc
step env RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps
if command -v cargo-deny >/dev/null; then
    # The licences of every platform's crates are looked at, so all must be there. Advisories need the network; see deny.toml.
    step cargo fetch --locked
    step cargo deny --locked --offline check bans licenses sources
else
    printf '\n== cargo-deny is not installed, skipped (scripts/setup.sh --tools)\n'
fi
if command -v cargo-machete >/dev/null; then
    step cargo machete --skip-target-dir
else
    printf '\n== cargo-machete is not installed, skipped (scripts/setup.sh --tools)\n'
fi
# What needs a broker has run on the installed one; now on the others that are unpacked, but for what no release of it changes.
# Says which were skipped, and why.
step tests/brokers.sh run others -- --skip e2e_brakes --skip e2e_clock --skip e2e_memory
printf '\nall well, %s s\n' "$SECONDS"
