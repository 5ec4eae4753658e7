#!/usr/bin/env bash
# Installs what the tests need on Debian and its relatives, beside Rust itself: a C linker, RabbitMQ (the program, never the
# service), faketime and Python with the generated stubs. Does nothing that is done already.
#
#   scripts/setup.sh              what the tests need
#   scripts/setup.sh --tools      and cargo-deny and cargo-machete, which scripts/verify.sh then runs (some minutes, once)
#   scripts/setup.sh --brokers    and RabbitMQ 4.0 and the newest 4.x, on which scripts/verify.sh then runs the tests too (see
#                                 tests/brokers.sh: root, Debian; 600 MB and two minutes, once)
set -euo pipefail
cd "$(dirname "$0")/.."

venv=examples/python/.venv
policy=/usr/sbin/policy-rc.d
tools=false
brokers=false
for argument in "$@"; do
    case $argument in
        --tools) tools=true ;;
        --brokers) brokers=true ;;
        *) echo "setup: unknown argument $argument; there are --tools and --brokers" >&2; exit 2 ;;
    esac
done

say() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Everything that apt has to install, in one go: the lists are read once.
missing_packages() {
    command -v cc >/dev/null || echo gcc libc6-dev
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null || echo rabbitmq-server
    python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3 python3-venv
    command -v faketime >/dev/null || echo faketime
}

# Packages start their services when they are installed, unless this file forbids it. One that is there is somebody's decision.
forbid_services() {
    [ ! -e "$policy" ] || return 0
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    trap 'as_root rm -f "$policy"' EXIT
}

install_packages() {
    local packages
    packages=$(missing_packages | tr '\n' ' ')
    if [ -z "${packages// /}" ]; then
        say "compiler, RabbitMQ, faketime and Python are there"
        return
    fi
    command -v apt-get >/dev/null || { say "please install: $packages(only apt-get is known here)" >&2; exit 1; }
    say "installing $packages"
    forbid_services
    as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    case $packages in
        *rabbitmq-server*)
            # The tests start brokers of their own; one that starts at the next boot would surprise.
            if command -v systemctl >/dev/null; then as_root systemctl disable --quiet rabbitmq-server 2>/dev/null || true; fi
            say "the RabbitMQ service was neither started nor enabled" ;;
    esac
}

# The stubs lie beside the libraries of the environment, so that every program run by its Python finds them.
prepare_python() {
    local wanted stubs
    wanted=$(cat examples/python/requirements.txt proto/sidebus/v1/sidebus.proto proto/sidebus/admin/v1/admin.proto | sha256sum)
    if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/prepared" 2>/dev/null)" = "$wanted" ]; then
        say "Python stubs are up to date"
        return
    fi
    say "preparing $venv"
    [ -x "$venv/bin/pip" ] || python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r examples/python/requirements.txt
    stubs=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$stubs" --grpc_python_out="$stubs" \
        sidebus/v1/sidebus.proto sidebus/admin/v1/admin.proto
    printf '%s\n' "$wanted" >"$venv/prepared"
}

install_tool() {
    command -v "$1" >/dev/null && { say "$1 is there"; return; }
    say "building $1 $2"
    # It runs for seconds and is built for minutes: without optimising and debug information for a third of that.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked --no-default-features "$1@$2"
}

install_packages
prepare_python
# Brokers are fetched and unpacked, tools are compiled: neither waits for the other.
if $brokers; then tests/brokers.sh prepare & preparing=$!; fi
if $tools; then
    install_tool cargo-deny 0.20.2
    install_tool cargo-machete 0.9.2
fi
if $brokers; then wait "$preparing"; fi
say "done"
