#!/usr/bin/env bash
# Build both images and run the topology of docker-compose.yml on a machine without a Docker daemon
# and without a registry, then kill a worker's container that holds leases.
#
#   tests/e2e/containers.sh [FOLDER]
#
# As root on Debian, with buildah, podman, docker.io, docker-compose 1 and debootstrap. FOLDER keeps
# what is slow to make (the base image); without one it is a temporary folder. Not part of CI: the
# first run takes about 20 minutes. Prints sizes and times, and exits with 1 where one is too large.
#
#   PYTHON_IMAGE   a base image with Python, instead of one made from Debian's packages
#   KEEP_IMAGES    yes: take the images of the run before
#   DEBIAN_MIRROR  where debootstrap gets its packages
#   BUILD_WORDS    further words for `buildah bud`, such as volumes with pip's configuration
#   REDIS_PACKAGE  and MONITORING_PACKAGES: what stands in for images of a registry
#
# What differs from docker-compose.yml is in containers_topology.py: one network namespace with
# nothing but loopback, Debian's Redis, Prometheus, Alertmanager and node-exporter, no Grafana.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
ROOT=$PWD
WORK=$(realpath -m "${1:-$(mktemp -d /tmp/lanefleet-containers.XXXXXX)}")
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
REDIS_PACKAGE=${REDIS_PACKAGE:-redis-server}
MONITORING_PACKAGES=${MONITORING_PACKAGES:-prometheus prometheus-alertmanager prometheus-node-exporter}
API_LIMIT_MB=150      # over its base
WORKER_LIMIT_MB=1600
IMAGES=(lanefleet-api lanefleet-worker standin-redis standin-monitoring)
mkdir -p "$WORK"

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }

timed() {  # NAME COMMAND...: run it with its output in a log, and say how long it took
    local name=$1 began=$SECONDS
    shift
    # In the background, as `set -e` is off in whatever a condition runs.
    "$@" >"$WORK/$name.log" 2>&1 &
    if ! wait $!; then
        tail -n 25 "$WORK/$name.log" >&2
        say "$name failed; all of it is in $WORK/$name.log"
        exit 1
    fi
    say "$name: $((SECONDS - began)) s"
}

need() {
    local missing=()
    for tool in buildah podman dockerd docker docker-compose debootstrap ip unshare; do
        PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ "${#missing[@]}" -eq 0 ] || { echo "missing here: ${missing[*]}" >&2; exit 2; }
    [ "$(id -u)" -eq 0 ] || { echo "run it as root" >&2; exit 2; }
}

megabytes() { echo $(($(podman image inspect --format '{{.Size}}' "localhost/$1") / 1000000)); }

bud() {  # TAG FILE CONTEXT WORDS...
    local tag=$1 file=$2 context=$3
    shift 3
    # Without the format HEALTHCHECK is lost.
    buildah bud --format docker --isolation chroot --network host --layers "$@" -t "localhost/$tag" -f "$file" "$context"
}

debian_image() {  # TAG WORDS...: an image from the base and the lines of standard input
    local tag=$1 folder="$WORK/$1"
    shift
    mkdir -p "$folder"
    { echo "FROM localhost/base:bookworm"; cat; } >"$folder/Containerfile"
    bud "$tag" "$folder/Containerfile" "$folder" "$@"
}

base_images() {
    if ! podman image exists localhost/base:bookworm; then
        rm -rf "$WORK/base"
        debootstrap --variant=minbase bookworm "$WORK/base" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
        rm -rf "$WORK"/base/var/cache/apt/*
        tar -C "$WORK/base" -c . | podman import - localhost/base:bookworm
        rm -rf "$WORK/base"
    fi
    local apt="apt-get update && apt-get install -y --no-install-recommends"
    debian_image python:local <<EOF
RUN $apt python3 python3-venv python3-pip ca-certificates && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && ln -s python3 /usr/bin/python
EOF
    debian_image standin-redis <<EOF
RUN $apt $REDIS_PACKAGE && rm -rf /var/lib/apt/lists/* /var/cache/apt/* && install -d -o 999 -g 1000 /data
WORKDIR /data
EOF
    debian_image standin-monitoring <<EOF
RUN $apt $MONITORING_PACKAGES wget && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && install -d -o 65534 -g 65534 /prometheus /alertmanager
EOF
}

build() {
    local python=${PYTHON_IMAGE:-localhost/python:local}
    # pip needs them; a package that installs certificates must be able to write there, so only here.
    local certificates="--volume /etc/ssl/certs:/etc/ssl/certs:ro"
    timed base_images base_images
    # shellcheck disable=SC2086  # words, on purpose
    timed build_api bud lanefleet-api deploy/docker/Dockerfile.api . \
        --build-arg "PYTHON_IMAGE=$python" $certificates ${BUILD_WORDS:-}
    # shellcheck disable=SC2086
    timed build_worker bud lanefleet-worker deploy/docker/Dockerfile.worker . \
        --build-arg "PYTHON_IMAGE=$python" $certificates ${BUILD_WORDS:-}
    local base over worker
    base=$(podman image inspect --format '{{.Size}}' "$python")
    over=$((($(podman image inspect --format '{{.Size}}' localhost/lanefleet-api) - base) / 1000000))
    worker=$(megabytes lanefleet-worker)
    say "base: $((base / 1000000)) MB"
    say "API: $(megabytes lanefleet-api) MB, $over over its base (at most $API_LIMIT_MB)"
    say "worker: $worker MB (less than $WORKER_LIMIT_MB)"
    [ "$over" -le "$API_LIMIT_MB" ] && [ "$worker" -lt "$WORKER_LIMIT_MB" ] || TOO_LARGE=1
}

pack() {
    for image in "${IMAGES[@]}"; do
        rm -f "$WORK/$image.tar"
        buildah push "localhost/$image" "docker-archive:$WORK/$image.tar:$image:latest"
    done
}

# Below: inside of namespaces of its own.

start_docker() {
    ip link set lo up
    export DOCKER_HOST="unix://$WORK/docker/sock" DOCKER_BUILDKIT=0
    mkdir -p "$WORK/docker"
    PATH=$PATH:/usr/sbin:/sbin dockerd --bridge=none --iptables=false --ip-forward=false --ip-masq=false \
        --data-root "$WORK/docker/data" --exec-root "$WORK/docker/exec" -p "$WORK/docker/pid" \
        -H "$DOCKER_HOST" --oom-score-adjust 0 --storage-driver overlay2 >"$WORK/dockerd.log" 2>&1 &
    DOCKERD=$!
    trap stop_docker EXIT
    for _ in $(seq 100); do
        docker version >/dev/null 2>&1 && return
        sleep 0.3
    done
    tail "$WORK/dockerd.log" >&2
    exit 1
}

stop_docker() {
    compose down --volumes --timeout 20 >/dev/null 2>&1 || true
    kill "$DOCKERD" 2>/dev/null || true
    wait "$DOCKERD" 2>/dev/null || true
}

compose() { docker-compose --project-directory "$ROOT" -p lanefleet -f "$WORK/topology.json" "$@"; }

load() {
    for image in "${IMAGES[@]}"; do
        docker load -i "$WORK/$image.tar"
    done
}

run_topology() {
    start_docker
    timed load load
    rm -f "$WORK"/*.tar
    "$PYTHON" "$ROOT/deploy/make_secrets.py" "$WORK/secrets" >/dev/null
    "$PYTHON" -m tests.e2e.containers_topology write "$WORK"
    local began=$SECONDS
    timed up compose up -d
    "$PYTHON" -m tests.e2e.containers_topology healthy "$WORK" || {
        compose ps
        compose logs --tail 20
        exit 1
    }
    say "all healthy after $((SECONDS - began)) s"
    "$PYTHON" -m tests.e2e.containers_topology exercise "$WORK" || {
        compose logs --tail 40
        exit 1
    }
}

main() {  # read as a whole before it runs, so that the file may be edited meanwhile
    if [ "${LANEFLEET_INSIDE:-}" = yes ]; then
        run_topology
        return
    fi
    need
    TOO_LARGE=0
    [ "${KEEP_IMAGES:-}" = yes ] || build
    rm -rf "$WORK/secrets"
    timed pack pack
    PYTHONPATH=$ROOT LANEFLEET_INSIDE=yes unshare -m -n "$ROOT/tests/e2e/containers.sh" "$WORK"
    [ "$TOO_LARGE" -eq 0 ] || { say "an image is too large"; exit 1; }
    say "done"
}

main
exit
