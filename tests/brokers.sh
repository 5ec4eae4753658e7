#!/usr/bin/env bash
# The brokers that the tests run against: the RabbitMQ that this machine's distribution installs, the one of Debian 13 (trixie, 4.0)
# and the newest 4.x (sid). The last two are unpacked with debootstrap, each into a folder of its own, and started under chroot by
# the tests themselves (tests/support/rabbitmq/). A call that finds everything there changes nothing.
#
#   tests/brokers.sh prepare [NAME...]                 unpacks what is missing (root, Debian)
#   tests/brokers.sh list                              what is there, and in which version
#   tests/brokers.sh root NAME                         its folder, for BUS_TEST_RABBITMQ_ROOT; nothing for the distribution's
#   tests/brokers.sh run [NAME...] [-- ARGUMENT...]    the tests of `bus_amqp` against each; arguments go to them
#
# NAME is `distribution`, `trixie` or `sid`, or `others` for the last two; without one, all three. A broker that cannot be had is
# skipped and the reason said; one that was named itself is an error then. The folders are below SIDEBUS_BROKERS
# (/var/cache/sidebus-brokers); remove one to have it renewed.
set -euo pipefail
cd "$(dirname "$0")/.."

brokers=${SIDEBUS_BROKERS:-/var/cache/sidebus-brokers}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
server=usr/lib/rabbitmq/bin/rabbitmq-server
names=(distribution trixie sid)
summary=()
running=()
program=
logs=

say() { printf 'brokers: %s\n' "$*" >&2; }
refuse() { say "$*"; exit 2; }

# A slip in this path would be deleted and written to as root.
[[ $brokers =~ ^/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+$ && ! $brokers =~ /\.\.?(/|$) ]] ||
    refuse "SIDEBUS_BROKERS must be a full path of two levels at least, of letters, digits and ._- only"

is_known() { [[ " ${names[*]} " == *" $1 "* ]]; }
is_there() { [ -e "$brokers/$1/$server" ]; }
version() { dpkg-query --admindir="$brokers/$1/var/lib/dpkg" -W -f '${Version}' rabbitmq-server; }

# Mounts are made in namespaces of their own only, so none should ever be seen here. Where one is, deleting could reach what is mounted.
remove() {
    if awk -v below="$(realpath -m "$1")/" 'index($5 "/", below) == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo; then
        say "$1 has something mounted in it and is left alone"
        return 1
    fi
    rm -rf --one-file-system -- "$1"
}

# Where this machine's own apt gets Debian from. Read each time and kept nowhere.
debian_archive() {
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | sed -n 1p
}

# Why nothing can be run under chroot here; silent where it can.
why_not_run() {
    if [ "$(id -u)" != 0 ]; then
        echo "chroot needs root"
    elif ! unshare --mount true 2>/dev/null; then
        echo "mount namespaces are not permitted here"
    fi
}

# Why the tests cannot run against one of them now.
why_not() {
    if [ "$1" = distribution ]; then
        return 0
    elif ! is_there "$1"; then
        echo "it is not unpacked (tests/brokers.sh prepare)"
    else
        why_not_run
    fi
}

# The same as `why_not_run`, for unpacking. Installs debootstrap.
why_not_unpack() {
    local why
    why=$(why_not_run)
    if [ -n "$why" ]; then
        echo "$why"
    elif ! command -v apt-get >/dev/null; then
        echo "only machines with apt can unpack it"
    elif [ -z "$(debian_archive)" ] && ! { apt-get update -qq >/dev/null 2>&1 && [ -n "$(debian_archive)" ]; }; then
        echo "the apt of this machine knows no Debian archive"
    elif ! { command -v debootstrap >/dev/null && [ -e "$keyring" ]; } && ! install_debootstrap; then
        echo "debootstrap cannot be installed"
    fi
}

install_debootstrap() {
    say "installing debootstrap"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring >&2 ||
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends debootstrap debian-archive-keyring; } >&2
}

# Unpacks one suite beside its place and moves it there when it is whole, so that a broken try is never taken for a broker.
unpack() {
    local suite=$1 fresh=$brokers/$1.new log=$brokers/$1.log started=$SECONDS
    remove "$fresh" || return 1
    # What debootstrap mounts while it works goes with its namespace.
    if ! unshare --mount debootstrap --variant=minbase --keyring="$keyring" --include=rabbitmq-server \
        "$suite" "$fresh" "$(debian_archive)" >"$log" 2>&1; then
        say "debootstrap failed for $suite; the end of $log:"
        tail -n 5 "$log" >&2
        remove "$fresh"
        return 1
    fi
    if [ ! -e "$fresh/$server" ]; then
        say "$suite has no /$server any more"
        return 1
    fi
    rm -f "$fresh"/var/cache/apt/archives/*.deb
    # The node finds its own machine by name here.
    cp /etc/hosts "$fresh/etc/hosts" && mv -T "$fresh" "$brokers/$suite" || return 1
    say "$suite: RabbitMQ $(version "$suite") unpacked in $((SECONDS - started)) s"
}

# Answers 1 if one of them is not there afterwards.
prepare() {
    local name why missing=() jobs=() failed=0
    for name in "$@"; do
        if [ "$name" != distribution ] && ! is_there "$name"; then missing+=("$name"); fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    why=$(why_not_unpack)
    if [ -n "$why" ]; then
        say "SKIPPED ${missing[*]}: $why"
        return 1
    fi
    mkdir -p "$brokers"
    # Two that unpack the same suite at once would spoil it. The children hold the lock too: they outlive an interrupted call.
    exec 9>"$brokers/lock"
    if ! flock --wait 1800 9; then
        say "another call has been unpacking for half an hour: look for it, or remove $brokers/lock"
        return 1
    fi
    for name in "${missing[@]}"; do
        # It may have come while this one waited for the lock.
        if is_there "$name"; then continue; fi
        unpack "$name" &
        jobs+=($!)
    done
    for name in "${jobs[@]}"; do wait "$name" || failed=1; done
    exec 9>&-
    return "$failed"
}

list() {
    local name
    if [ -e "/$server" ]; then
        say "distribution: RabbitMQ $(dpkg-query -W -f '${Version}' rabbitmq-server 2>/dev/null || echo '(version unknown)')"
    else
        say "distribution: not installed (scripts/setup.sh)"
    fi
    for name in "${names[@]:1}"; do
        if is_there "$name"; then say "$name: RabbitMQ $(version "$name") in $brokers/$name"; else say "$name: not unpacked"; fi
    done
}

# Builds the tests and answers where they are. They are run without cargo then: it might build anew between two brokers.
build() {
    local said
    said=$(cargo test --locked --features amqp --test bus_amqp --no-run --color never 2>&1) || { printf '%s\n' "$said" >&2; return 1; }
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p' <<<"$said"
}

# Runs the tests against one broker; arguments behind its name go to them.
run_one() {
    local root=
    say "bus_amqp on $1"
    if [ "$1" != distribution ]; then root=$brokers/$1; fi
    BUS_TEST_RABBITMQ_ROOT=$root "$program" "${@:2}"
}

# The same in the background, into a file of its own.
start() {
    local started=$SECONDS status=passed
    run_one "$@" >"$logs/$1" 2>&1 || status=FAILED
    echo "$1: $status, $((SECONDS - started)) s" >"$logs/$1.end"
    [ "$status" = passed ]
}

# Waits for the oldest that was started and shows what it said.
finish() {
    local name=${running[0]%% *} status=0
    wait "${running[0]##* }" || status=1
    cat "$logs/$name"
    summary+=("$(cat "$logs/$name.end")")
    running=("${running[@]:1}")
    return "$status"
}

interrupted() {
    local one
    for one in ${running[@]+"${running[@]}"}; do kill -- "-${one##* }" 2>/dev/null || true; done
    exit 130
}

# The first argument tells whether a skipped broker is an error. Two run at once: each waits more than it works, so both take hardly
# longer than one (measured on two cores); a third would make waits late that tests look at.
run() {
    local how=$1 name why chosen=() failed=0
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        why=$(why_not "$1")
        if [ -z "$why" ]; then
            chosen+=("$1")
        else
            summary+=("$1: SKIPPED, $why")
            [ "$how" = lenient ] || failed=1
        fi
        shift
    done
    if [ $# -gt 0 ]; then shift; fi
    if [ ${#chosen[@]} -gt 0 ]; then
        program=$(build)
        [ -n "$program" ] || refuse "the tests cannot be built"
        logs=$(mktemp -d)
        trap 'rm -rf "$logs"' EXIT
        trap interrupted INT TERM
        # Each gets a process group, else it would not hear of an interrupt.
        set -m
    fi
    for name in ${chosen[@]+"${chosen[@]}"}; do
        if [ ${#running[@]} -ge 2 ]; then finish || failed=1; fi
        start "$name" "$@" &
        running+=("$name $!")
    done
    while [ ${#running[@]} -gt 0 ]; do finish || failed=1; done
    for name in "${summary[@]}"; do say "$name"; done
    return "$failed"
}

main() {
    local command=${1:-} how=strict named=()
    [ $# -eq 0 ] || shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        if [ "$1" = others ]; then
            how=lenient
            named+=("${names[@]:1}")
        else
            is_known "$1" || refuse "unknown broker $1; there are: ${names[*]}"
            named+=("$1")
        fi
        shift
    done
    if [ ${#named[@]} -eq 0 ]; then
        how=lenient
        named=("${names[@]}")
    fi
    case $command in
        prepare) prepare "${named[@]}" || [ "$how" = lenient ] && list ;;
        list) list ;;
        root)
            [ "$how" = strict ] || refuse "root needs a name: ${names[*]}"
            if [ "${named[0]}" != distribution ]; then printf '%s\n' "$brokers/${named[0]}"; fi ;;
        run) run "$how" "${named[@]}" "$@" ;;
        *) refuse "commands: prepare, list, root, run; see the head of this file" ;;
    esac
}

main "$@"
