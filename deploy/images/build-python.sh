#!/usr/bin/env bash
# Makes the environment of an image: build-python.sh IMAGE SOURCE TARGET, with IMAGE pipelines or serving.
# For a clean Debian 12, as root. Only the locked versions, by their hashes, as wheels.
set -euo pipefail
image=$1 source=$2 target=$3
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
packages=(ca-certificates python3.11 python3.11-venv)
if [ "$image" = serving ]; then packages+=(npm); fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null

locked=(install --quiet --no-deps --require-hashes --only-binary :all:)
cd "$source"
if [ "$image" = serving ]; then
  # The page's chart library becomes a part of the wheel.
  npm ci --prefix serving/page --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
fi
python3.11 -m venv /tmp/build
/tmp/build/bin/pip "${locked[@]}" --requirement deploy/images/build.requirements.txt
/tmp/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp/wheel .

python3.11 -m venv "$target"
"$target/bin/pip" "${locked[@]}" --requirement "deploy/images/$image.requirements.txt"
"$target/bin/pip" install --quiet --no-deps --no-index /tmp/wheel/fibflow-*.whl
cp deploy/images/healthy.py "$target/healthy.py"
# Nothing is installed into an image later, and what runs there loads no tests of numpy's and others.
"$target/bin/pip" uninstall --quiet --yes pip setuptools
find "$target/lib" -type d -name tests -path '*/site-packages/*' -prune -exec rm -rf {} +
rm -rf /tmp/build /tmp/wheel
