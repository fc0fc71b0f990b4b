#!/usr/bin/env bash
# Takes out of requirements.lock what each image needs: the same versions, the same hashes. Run it after `make lock`.
set -euo pipefail
cd "$(dirname "$0")/../.."
uv=${UV:-.venv/bin/uv}
for image in pipelines serving build; do
  from=deploy/images/$image.in
  if [ "$image" = pipelines ]; then from=setup.py; fi
  "$uv" pip compile "$from" --constraint requirements.lock --python-version 3.11 --python-platform linux --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet \
    --output-file "deploy/images/$image.requirements.txt"
done
