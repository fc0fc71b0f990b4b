#!/usr/bin/env bash
# Lays Flink out: lay-out-flink.sh BUILT DISTRIBUTION TARGET.
# BUILT is runners/flink/target, DISTRIBUTION Flink's as PyPI has it. Jars sort as they go on the class path.
set -euo pipefail
built=$1 distribution=$2 target=$3
# Beam's job server leaves jars below folders of these names where they are, and sends them with no job.
unsent=$target/gradle/wrapper
mkdir -p "$target/lib" "$target/bin" "$target/plugins" "$unsent"
cp -r "$distribution"/lib/. "$target/lib/"
cp -r "$distribution"/plugins/metrics-prometheus "$target/plugins/"
cp "$distribution/bin/bash-java-utils.jar" "$target/bin/"
place=0
for jar in "$built/fibflow-flink.jar" "$built"/lib/*.jar; do
  numbered=$(printf '%03d-%s' "$place" "$(basename "$jar")")
  cp "$jar" "$unsent/$numbered"
  case $(basename "$jar") in
    flink-* | slf4j-* | frocksdbjni-*) ;; # the cluster has its own
    *) ln "$unsent/$numbered" "$target/lib/$numbered" ;;
  esac
  place=$((place + 1))
done
