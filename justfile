# Short names for the scripts; each can be called without just.

# What there is
default:
    @just --list

# Before every commit
verify:
    ./scripts/verify.sh

# Install what the tests need, then verify
test *arguments:
    ./scripts/test.sh {{ arguments }}

# Only the tests that need a broker; they start one of their own
amqp *arguments:
    cargo test --test bus_amqp --features amqp {{ arguments }}

# A sidecar with the embedded broker
dev:
    cargo run -- dev

# Build the image's last stage around a static binary and try it
image:
    ./scripts/image-check.sh
