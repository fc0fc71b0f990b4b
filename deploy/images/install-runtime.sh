#!/usr/bin/env bash
# Makes a clean Debian 12 fit to run an image: install-runtime.sh python|java. As root.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
case $1 in
  python) packages=(ca-certificates python3.11-minimal libpython3.11-stdlib) ;;
  java) packages=(ca-certificates openjdk-17-jre-headless) ;;
  *)
    echo "install-runtime.sh: python or java, not $1" >&2
    exit 2
    ;;
esac
apt-get update -qq
# What Debian mended since the base was made.
apt-get upgrade -y -qq >/dev/null
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
apt-get clean
rm -rf /var/lib/apt/lists/*
groupadd --gid 10001 fibflow
useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fibflow
