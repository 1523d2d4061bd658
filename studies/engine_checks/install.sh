#!/bin/sh
# install.sh vllm 0.33.0 FOLDER: an environment in FOLDER (outside the repository) with an engine and what its
# configuration needs, none of its parts for GPUs. About 3 GB.
set -eu
python3 -m venv "$3"
"$3/bin/pip" install --quiet --requirement "$(dirname "$0")/$1-$2.txt"
"$3/bin/pip" install --quiet --no-deps "$1==$2"
