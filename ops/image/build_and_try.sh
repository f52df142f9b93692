#!/usr/bin/env bash
# Builds the image without a container registry, pretrains in it, and exits non-zero at the first thing that is not as it
# should be.
#
#   sudo ops/image/build_and_try.sh [trainer|compile]
#
# Needs root, Debian's buildah, runc and debootstrap, and 40 GB. The base is Debian bookworm, made by debootstrap; another
# one can be named in BASE_IMAGE. /etc/pip.conf and this machine's certificates are there while pip runs, and stay out.
# What is left is the image, in build/image (or in IMAGE_STORAGE): `rm -rf build/image` removes it.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${1:-trainer}
storage=$(realpath --canonicalize-missing "${IMAGE_STORAGE:-build/image}")
image=localhost/diptych:$target
port=${PORT:-9400}

main() {
  refuse_what_is_missing
  mkdir -p "$storage"
  work=$(mktemp --directory "$storage/work.XXXXXX")
  trap clean_up EXIT
  base=${BASE_IMAGE:-$(make_base)}
  build_image "$base"
  check_configuration
  start_container
  check_user
  check_versions
  make_data
  if [ "$target" = compile ]; then
    check_compiled_steps
  else
    check_refusal_to_compile
    check_pretraining
  fi
  echo "image: $image, $(size_of_root) on disk; in $storage, which \`rm -rf\` removes"
}

refuse_what_is_missing() {
  case $target in trainer | compile) ;; *) refuse "target $target: not trainer or compile" ;; esac
  [ "$(id -u)" = 0 ] || refuse "root is needed, to make a root file system"
  local missing=()
  for program in buildah runc debootstrap; do
    command -v "$program" > /dev/null || missing+=("$program")
  done
  [ ${#missing[@]} = 0 ] || refuse "missing: ${missing[*]}; apt-get install --no-install-recommends ${missing[*]}"
}

refuse() {
  echo "image: error: $1" >&2
  exit 2
}

fail() {
  echo "image: FAILED: $1" >&2
  exit 1
}

builder() {
  buildah --root "$storage/storage" --runroot "$storage/run" --storage-driver vfs "$@"
}

clean_up() {
  builder rm --all > /dev/null 2>&1 || true
  builder rmi --prune > /dev/null 2>&1 || true
  builder rmi localhost/diptych-base > /dev/null 2>&1 || true
  rm -rf "$work"
}

make_base() {
  local root=$work/base empty
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" > "$work/debootstrap.log" ||
    fail "debootstrap: $(tail -n 1 "$work/debootstrap.log")"
  tar --directory "$root" --create --file "$work/base.tar" .
  empty=$(builder from scratch)
  builder add --quiet "$empty" "$work/base.tar" / > /dev/null
  builder commit --quiet "$empty" localhost/diptych-base > /dev/null
  builder rm "$empty" > /dev/null
  rm -rf "$root" "$work/base.tar"
  echo localhost/diptych-base
}

build_image() {
  local secrets=(--secret "id=certificates,src=/etc/ssl/certs/ca-certificates.crt") begun=$SECONDS
  [ ! -e /etc/pip.conf ] || secrets+=(--secret "id=pip,src=/etc/pip.conf")
  # Without --layers: this storage keeps a whole copy of the file system for each.
  builder bud --quiet --isolation chroot --format docker --target "$target" --build-arg "BASE_IMAGE=$1" \
    --build-arg "REVISION=$(git rev-parse --short HEAD 2> /dev/null || echo unknown)" "${secrets[@]}" --tag "$image" . > "$work/build.log" 2>&1 ||
    fail "build: $(tail -n 20 "$work/build.log")"
  echo "built $image on $1 in $((SECONDS - begun)) s"
}

# What Docker or Kubernetes would read in it.
check_configuration() {
  builder inspect --type image "$image" > "$work/image.json"
  [ "$(configured User)" = 10001:10001 ] || fail "user: $(configured User)"
  [ "$(configured Entrypoint)" = "tini --" ] || fail "entry point: $(configured Entrypoint)"
  configured Env | grep --quiet PYTHONSAFEPATH=1 || fail "no PYTHONSAFEPATH in its environment"
  python3 -c 'import json, sys; assert json.load(sys.stdin)["Docker"]["config"]["Healthcheck"]["Test"]' \
    < "$work/image.json" || fail "no health check"
  ! grep --ignore-case --quiet -e index-url -e password "$work/image.json" || fail "its history tells of an index"
}

configured() {
  python3 -c 'import json, sys; value = json.load(sys.stdin)["Docker"]["config"][sys.argv[1]]
print(value if isinstance(value, str) else " ".join(value))' "$1" < "$work/image.json"
}

start_container() {
  container=$(builder from "$image")
  mkdir "$work/data" "$work/runs"
  chown 10001:10001 "$work/data" "$work/runs"
}

# Runs a command as `docker run --network host` does: a process tree of its own, whose first one is the entry point. Its
# host's name is one that can be looked up, as in Docker.
in_container() {
  local entry
  read -ra entry <<< "$(configured Entrypoint)"
  builder run --isolation oci --runtime runc --network host --hostname localhost --volume "$work/data:/diptych/data" \
    --volume "$work/runs:/diptych/runs" "$container" -- "${entry[@]}" "$@"
}

check_user() {
  local who
  who=$(in_container id)
  [[ $who = "uid=10001(diptych) gid=10001(diptych)"* ]] || fail "it runs as $who"
  in_container test ! -w /diptych -a ! -w /diptych/train -a ! -w /opt/diptych || fail "its user can write to its code"
  in_container test ! -e /etc/pip.conf || fail "pip's configuration is in the image"
  echo "user: $who"
}

# That no library came in which constraints.txt does not hold to one version; pip is that of the base.
check_versions() {
  local unheld
  unheld=$(in_container python -m pip freeze --all --exclude pip --exclude diptych |
    python3 -c 'import re, sys; name = lambda line: re.sub("[-_.]+", "-", line.strip().lower())
held = {name(line) for line in open("constraints.txt")}
print(*(line for line in sys.stdin if name(line) not in held))')
  [ -z "$unheld" ] || fail "not held by constraints.txt: $unheld"
}

make_data() {
  in_container python -m pipelines.build_shards textures --output data/textures > "$work/data.log" 2>&1 ||
    fail "data: $(tail -n 5 "$work/data.log")"
}

pretrain() {
  in_container python train/pretrain.py --config train/configs/demo.yaml --data.dir data/textures --metrics.port "$port" "$@"
}

check_refusal_to_compile() {
  local status=0 said
  said=$(pretrain --run_dir runs/refused --compile=true 2>&1) || status=$?
  [ "$status" = 2 ] || fail "--compile=true without a compiler ended with $status: $said"
  grep "^pretrain: error" <<< "$said" || fail "--compile=true was refused by: $said"
}

check_compiled_steps() {
  pretrain --run_dir runs/compiled --compile=true --stop_after_steps 20 > "$work/compiled.log" 2>&1 ||
    fail "compiled: $(tail -n 20 "$work/compiled.log")"
  grep "encoder compiled" "$work/compiled.log" || fail "nothing was compiled: $(cat "$work/compiled.log")"
}

# Stopped as `docker stop` does it, once it has made steps, and started again by the same command to its end.
check_pretraining() {
  local process status=0 begun=$SECONDS
  pretrain --run_dir runs/demo > "$work/train.log" 2>&1 &
  process=$!
  wait_for_steps 20
  echo "20 steps made $((SECONDS - begun)) s after the start"
  check_health
  runc kill "$(running)" TERM
  wait "$process" || status=$?
  [ "$status" = 75 ] || fail "asked to stop it exited with $status, not 75: $(tail -n 5 "$work/train.log")"
  grep "stopping after step" "$work/train.log" || fail "it did not say that it saved: $(tail -n 5 "$work/train.log")"
  pretrain --run_dir runs/demo > "$work/train.log" 2>&1 &
  process=$!
  wait_for_steps 20
  check_health
  wait "$process" || fail "pretraining: $(tail -n 20 "$work/train.log")"
  [ -s "$work/runs/demo/encoder/model.safetensors" ] || fail "no encoder: $(ls "$work/runs/demo/encoder")"
  tail -n 3 "$work/train.log"
  echo "pretrained in $((SECONDS - begun)) s, stopped and started again once"
}

running() {
  runc list --quiet | grep "^buildah-" || fail "no container runs: $(tail -n 20 "$work/train.log")"
}

wait_for_steps() {
  local deadline=$((SECONDS + 180)) steps
  until steps=$(page | sed --quiet 's/^diptych_train_steps_total \(.*\)\.0$/\1/p') && [ "${steps:-0}" -ge "$1" ]; do
    [ $SECONDS -lt $deadline ] || fail "no $1 steps after 180 s: $(tail -n 20 "$work/train.log")"
    sleep 1
  done
  echo "its page, at step $steps of this start:"
  page | grep -E "^diptych_train_(images_total|loss_nats|last_step_timestamp_seconds) "
}

page() {
  python3 -c 'import sys, urllib.request as request
print(request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=5).read().decode())' "$port" 2> /dev/null
}

# Inside the container that trains, as Docker runs its health check; then with a limit that nothing can keep.
check_health() {
  local said
  said=$(runc exec "$(running)" python -m ops.health_check --port "$port") || fail "health check: $said"
  echo "$said"
  ! said=$(runc exec "$(running)" python -m ops.health_check --port "$port" --max_age_seconds 0) ||
    fail "the health check is content with anything: $said"
}

size_of_root() {
  du --summarize --human-readable "$(builder mount "$container")" | cut --fields 1
}

main
