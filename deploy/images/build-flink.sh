#!/usr/bin/env bash
# Makes a Flink that holds Beam's classes, the mended ones first: build-flink.sh SOURCE TARGET.
# For a clean Debian 12, as root.
set -euo pipefail
source=$1 target=$2
flink=1.19.3
# The distribution is on PyPI as a source archive; the Makefile names the same.
flink_sha256=4a58e3a1fb7d83340bc96b6c080624c6d792d69fae5d294b96224775204a9c60
s3_sha256=3243bc2d44d72a33b15cfac79f465442fd144f346091efcd715d253bd4145a28
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates maven openjdk-17-jdk-headless python3.11 python3.11-venv >/dev/null

python3.11 -m venv /tmp/build
/tmp/build/bin/pip install --quiet --no-deps --require-hashes --only-binary :all: \
  --requirement "$source/deploy/images/build.requirements.txt"
echo "apache-flink-libraries==$flink --hash=sha256:$flink_sha256" >/tmp/flink.txt
/tmp/build/bin/pip install --quiet --no-deps --require-hashes --no-build-isolation --no-binary apache-flink-libraries \
  --requirement /tmp/flink.txt
home=/tmp/build/lib/python3.11/site-packages/pyflink

maven=(mvn --batch-mode --no-transfer-progress --quiet)
(cd "$source/runners/flink" && "${maven[@]}" -Dmaven.test.skip=true package)
"${maven[@]}" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy \
  "-Dartifact=org.apache.flink:flink-s3-fs-hadoop:$flink" -DoutputDirectory=/tmp/s3
echo "$s3_sha256  /tmp/s3/flink-s3-fs-hadoop-$flink.jar" | sha256sum --check --quiet

"$source/deploy/images/lay-out-flink.sh" "$source/runners/flink/target" "$home" "$target"
mkdir -p "$target/plugins/s3-fs-hadoop"
cp "/tmp/s3/flink-s3-fs-hadoop-$flink.jar" "$target/plugins/s3-fs-hadoop/"
cp "$source/deploy/images/flink.sh" "$source/deploy/images/log4j-console.properties" "$target/"
rm -rf /tmp/build /tmp/flink.txt /tmp/s3
