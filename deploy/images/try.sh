#!/usr/bin/env bash
# Runs the steps of the images in clean Debian roots, and then what they start: try.sh [pipelines|serving|flink ...].
# With both pipelines and serving the one makes a lake, the other serves it, and the doctor looks at both.
# As root, with mmdebstrap (Debian: apt-get install mmdebstrap). Ten minutes, some gigabytes below TRY (/tmp/fibflow-images).
# APT_MIRROR names another mirror. The certificates of this machine and the variables that name them go along, and nothing else of it.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${TRY:-/tmp/fibflow-images}
mirror=${APT_MIRROR:-http://deb.debian.org/debian}
images=("$@")
if [ ${#images[@]} = 0 ]; then images=(pipelines serving flink); fi
mkdir -p "$work"

root() { # NAME: a clean Debian, unpacked anew
  rm -rf "${work:?}/$1" && mkdir "$work/$1" && tar -xf "$work/debian.tar" -C "$work/$1"
  cp /etc/resolv.conf "$work/$1/etc/resolv.conf"
  mkdir -p "$work/$1/usr/local/share/ca-certificates"
  cp -rL /usr/local/share/ca-certificates/. "$work/$1/usr/local/share/ca-certificates/" 2>/dev/null || true
}
inside() { # NAME COMMAND...: as root, with its own /proc and a /dev of its own
  local place=$work/$1
  shift
  # shellcheck disable=SC2016 # for the shell inside
  unshare --mount --pid --fork --kill-child bash -c '
    mount -t proc proc "$0/proc" && for each in null zero random urandom; do
      touch "$0/dev/$each" && mount --bind "/dev/$each" "$0/dev/$each"
    done
    if [ -d "$0/shared" ]; then mount --bind "$0/../shared" "$0/shared"; fi
    exec chroot "$0" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin ${PIP_CERT:+PIP_CERT="$PIP_CERT"} \
      ${SSL_CERT_FILE:+SSL_CERT_FILE="$SSL_CERT_FILE"} ${NODE_EXTRA_CA_CERTS:+NODE_EXTRA_CA_CERTS="$NODE_EXTRA_CA_CERTS"} "$@"' "$place" "$@"
}

if [ ! -f "$work/debian.tar" ]; then
  # As Debian's slim image: the least that apt needs.
  mmdebstrap --variant=minbase --mode=root bookworm "$work/debian.tar" "$mirror"
fi
as=(setpriv --reuid=10001 --regid=10001 --clear-groups env -i HOME=/tmp PYTHONSAFEPATH=1
  "PATH=/opt/fibflow/bin:/usr/bin:/bin")
for image in "${images[@]}"; do
  kind=python target=/opt/fibflow step=("/source/deploy/images/build-python.sh" "$image" /source /opt/fibflow)
  if [ "$image" = flink ]; then
    kind=java target=/opt/flink step=("/source/deploy/images/build-flink.sh" /source /opt/flink)
  fi
  echo "== $image: build"
  root "$image-build"
  # The work tree as it is, without what git ignores.
  mkdir "$work/$image-build/source"
  git ls-files -z --cached --others --exclude-standard | tar --null --files-from - --ignore-failed-read -c 2>/dev/null |
    tar -x -C "$work/$image-build/source"
  inside "$image-build" "${step[@]}"
  echo "== $image: run"
  root "$image"
  cp deploy/images/install-runtime.sh "$work/$image/usr/local/sbin/"
  inside "$image" /usr/local/sbin/install-runtime.sh "$kind"
  mkdir -p "$work/$image/opt" && cp -a "$work/$image-build$target" "$work/$image/opt/"
  rm -rf "${work:?}/$image-build"
  du -sh "$work/$image"
  # shellcheck disable=SC2016 # for the shell inside
  case $image in
    pipelines)
      for command in stream ingest notify daily news jobs doctor; do
        inside "$image" "${as[@]}" python -m "fibflow.pipelines.$command" --help >/dev/null
      done
      inside "$image" "${as[@]}" python -m fibflow.runners.services.worker_pool --help
      ;;
    serving)
      inside "$image" "${as[@]}" bash -c '
        mkdir -p /tmp/lake && { python -m fibflow.serving --lake /tmp/lake --open --port 8099 & }
        for _ in $(seq 60); do
          if FIBFLOW_HEALTH=http://127.0.0.1:8099/healthz python /opt/fibflow/healthy.py 2>/dev/null; then
            echo "serving: /healthz answers" && exit 0
          fi
          sleep 1
        done
        echo "serving: /healthz does not answer" >&2 && exit 1'
      ;;
    flink)
      inside "$image" "${as[@]}" bash -c '
        mkdir -p /tmp/conf && printf "%s\n" "jobmanager.rpc.address: localhost" "jobmanager.memory.process.size: 1024m" \
          "rest.port: 8098" "rest.bind-address: 127.0.0.1" "jobmanager.rpc.port: 6199" >/tmp/conf/config.yaml
        { FLINK_CONF_DIR=/tmp/conf /opt/flink/flink.sh jobmanager 127.0.0.1 & }
        for _ in $(seq 60); do
          if (exec 3<>/dev/tcp/127.0.0.1/8098) 2>/dev/null; then echo "flink: the job manager answers" && exit 0; fi
          sleep 1
        done
        echo "flink: the job manager does not answer" >&2 && exit 1'
      ;;
  esac
  echo "== $image: well"
done

case " ${images[*]} " in *" pipelines "*" serving "* | *" serving "*" pipelines "*) ;; *) exit 0 ;; esac
echo "== together"
rm -rf "${work:?}/shared" && mkdir "$work/shared" && chown 10001:10001 "$work/shared"
for image in pipelines serving; do mkdir -p "$work/$image/shared"; done
cp deploy/images/sample.py "$work/shared/"
inside pipelines "${as[@]}" python /shared/sample.py /shared/raw
inside pipelines "${as[@]}" python -m fibflow.pipelines.load --input /shared/raw --lake /shared/lake --price-basis raw >/dev/null
inside pipelines "${as[@]}" python -m fibflow.pipelines.batch --lake /shared/lake --workers 1 >/dev/null
inside serving "${as[@]}" python -m fibflow.serving --lake /shared/lake --open --port 8099 &
serving=$!
trap 'kill "$serving" 2>/dev/null || true' EXIT
for _ in $(seq 60); do
  if FIBFLOW_HEALTH=http://127.0.0.1:8099/readyz python3 deploy/images/healthy.py 2>/dev/null; then break; fi
  sleep 1
done
inside pipelines "${as[@]}" python -m fibflow.pipelines.doctor --lake /shared/lake --server http://127.0.0.1:8099
echo "== together: well"
