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

# The same on RabbitMQ 3.10, 4.0 and the newest 4.x (prepare | list | run [NAME...] [-- ARGUMENT...])
brokers *arguments:
    ./tests/brokers.sh {{ arguments }}

# Sidebus against a bare AMQP client, on a broker of its own (--help names the rest)
bench *arguments:
    cargo bench --bench data_path -- {{ arguments }}

# A sidecar with the embedded broker
dev:
    cargo run -- dev

# Build the image's last stage around a static binary and try it
image:
    ./scripts/image-check.sh
