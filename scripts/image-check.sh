#!/usr/bin/env bash
# Builds the last stage of the Dockerfile without an engine and without pulling a base, and tries the image: what is in it, whom
# it runs as, whether it answers its probes, passes its own health check and stops cleanly.
#
# Needs root, buildah and python3 (apt-get install --no-install-recommends buildah). The binary is built statically here, or
# given:   scripts/image-check.sh [path of a static sidebus]
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "image-check: needs root, to enter the image" >&2; exit 1; }
command -v buildah >/dev/null || { echo "image-check: needs buildah: apt-get install --no-install-recommends buildah" >&2; exit 1; }

scratch=$(mktemp -d)
process=
buildah_here() { buildah --root "$scratch/root" --runroot "$scratch/run" --storage-driver vfs "$@"; }
clean_up() {
    [ -z "$process" ] || kill -KILL "$process" 2>/dev/null || true
    buildah_here umount --all >/dev/null 2>&1 || true
    buildah_here rm --all >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap clean_up EXIT
fail() { echo "image-check: $*" >&2; exit 1; }

binary=${1:-}
if [ -z "$binary" ]; then
    target=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bin sidebus --target "$target"
    binary=${CARGO_TARGET_DIR:-target}/$target/release/sidebus
fi
ldd "$binary" 2>&1 | grep -qE 'statically linked|not a dynamic executable' || fail "$binary is not static"

# The stage as it stands in the Dockerfile; what it copies from the build stage comes from a folder of that name.
install -D "$binary" "$scratch/build/out/sidebus"
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$scratch/build/out/ca-certificates.crt"
sed -n '/^FROM scratch$/,$p' Dockerfile >"$scratch/Containerfile"
[ -s "$scratch/Containerfile" ] || fail "the Dockerfile has no stage FROM scratch"
mkdir "$scratch/context"
buildah_here bud --quiet --isolation chroot --format docker --build-context "build=$scratch/build" \
    --file "$scratch/Containerfile" --tag sidebus-check "$scratch/context" >/dev/null

container=$(buildah_here from sidebus-check)
inside=$(buildah_here mount "$container")
found=$(cd "$inside" && find . -type f -size +0 | sort | tr '\n' ' ')
[ "$found" = "./etc/ssl/certs/ca-certificates.crt ./sidebus " ] || fail "unexpected files: $found"

# How the image wants to be started, from its own description: one line each for user, command and health check.
buildah_here inspect --type image sidebus-check >"$scratch/inspect.json"
python3 - "$scratch/inspect.json" >"$scratch/image.sh" <<'PYTHON'
import json, shlex, sys
config = json.loads(json.load(open(sys.argv[1]))["Config"])["config"]
assert config["User"] == "65532:65532", config["User"]
assert config["Healthcheck"]["Test"][0] == "CMD", config["Healthcheck"]
print("user=" + config["User"])
print("command=(" + shlex.join(config["Entrypoint"] + config["Cmd"]) + ")")
print("health=(" + shlex.join(config["Healthcheck"]["Test"][1:]) + ")")
print("environment=(" + shlex.join(config["Env"]) + ")")
PYTHON
user='' command=() health=() environment=()
# shellcheck disable=SC1091 # written just now
. "$scratch/image.sh"
enter() { exec env -i "${environment[@]}" "${overrides[@]}" chroot --userspec="$user" "$inside" "$@"; }

# Ports of this run, so that two runs do not meet; the image's own 17673 is in its description.
read -r grpc_port health_port <<<"$(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for each in sockets: each.bind(("127.0.0.1", 0))
print(*[each.getsockname()[1] for each in sockets])')"
overrides=(BUS_BACKEND=memory BUS__GRPC__LISTEN="127.0.0.1:$grpc_port" BUS__ADMIN__LISTEN=off BUS__HEALTH__LISTEN="127.0.0.1:$health_port")

(enter "${command[@]}") >"$scratch/log" 2>&1 &
process=$!
python3 - "http://127.0.0.1:$health_port" <<'PYTHON' || { cat "$scratch/log" >&2; fail "the probes do not answer"; }
import sys, time, urllib.request
deadline = time.monotonic() + 15
for path in ("/livez", "/readyz", "/metrics"):
    while True:
        try:
            with urllib.request.urlopen(sys.argv[1] + path, timeout=2) as answer:
                assert answer.status == 200, answer.status
                break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{path}: {error}")
            time.sleep(0.05)
PYTHON
(enter "${health[@]}") || { cat "$scratch/log" >&2; fail "the health check says no ($?)"; }

kill -TERM "$process"
status=0
wait "$process" || status=$?
process=
[ "$status" = 0 ] || { cat "$scratch/log" >&2; fail "stopped with exit code $status"; }
echo "image-check: well; binary $(stat -c %s "$binary") bytes, user $user"
